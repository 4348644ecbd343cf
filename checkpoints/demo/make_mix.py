"""Make the held-out demo mix (mix.flac = voice.flac + music.flac) from two unpacked Debian packages.

    python make_mix.py SOURCES [--output FOLDER]

SOURCES holds one folder per package, as left by `dpkg -x FILE.deb SOURCES/PACKAGE`. README.md beside this
script says what goes into the mix and why; LICENSES.md says who made it.
"""

import argparse
import io
import sys
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile as sf

Samples = npt.NDArray[np.float64]
Pcm16 = npt.NDArray[np.int16]

SAMPLE_RATE: Final = 44100
DURATION: Final = 15 * SAMPLE_RATE
FULL_SCALE: Final = 2**15

MUSIC_FOLDER: Final = "fretsonfire-songs-sectoid/usr/share/games/fretsonfire/data/songs/sectoid/Feelings"
MUSIC_FILES: Final = ("song.ogg", "guitar.ogg")
# 45.45 s is a few milliseconds before the bar on which drums, bass, strings and lead guitar all play.
MUSIC_START: Final = round(45.45 * SAMPLE_RATE)
MUSIC_FADE: Final = round(0.02 * SAMPLE_RATE)

VOICE_ARCHIVE: Final = "0ad-data/usr/share/games/0ad/mods/public/public.zip"
VOICE_FOLDER: Final = "audio/voice/greek/civ"
# Different phrases only, so that no sound occurs twice; the speaker's second takes are the longer ones.
PHRASES: Final = (
    "attack_2",
    "gather_together_2",
    "my_lord_2",
    "garrison_2",
    "build_2",
    "march_2",
    "what_is_it_3",
    "go_out_against_2",
    "heal_2",
    "repair_2",
    "work_land_2",
    "fish_2",
    "walk_2",
    "retreat_2",
    "hunt_1",
)
VOICE_LEAD_IN: Final = round(0.35 * SAMPLE_RATE)
PHRASE_FADE: Final = round(0.008 * SAMPLE_RATE)
PHRASE_FRAME: Final = round(0.02 * SAMPLE_RATE)
# The recordings' noise floor is 35 to 65 dB below the loudest frame; consonants are above this.
SPEECH_THRESHOLD_DB: Final = -35.0
# Constant-power pan, -1 left to 1 right: the voice is a little off centre, its channels differ by 1.4 dB.
VOICE_PAN: Final = 0.1

MIX_PEAK_DB: Final = -1.0


class SourceError(Exception):
    """A source file is missing or not what the mix was made from; the text is one line."""


def check_rate(source: str, rate: int) -> None:
    """Refuse any rate but 44.1 kHz: both packages hold it, so the stems are never resampled."""
    if rate != SAMPLE_RATE:
        raise SourceError(f"{source}: {rate} Hz, not {SAMPLE_RATE}; unpack the package versions of README.md")


def read_music(sources: Path) -> Samples:
    """Return the music excerpt, [samples, 2]: the two files of one song, summed as the game plays them."""
    parts = []
    for name in MUSIC_FILES:
        path = sources / MUSIC_FOLDER / name
        if not path.is_file():
            raise SourceError(f"{path}: not found; unpack fretsonfire-songs-sectoid with dpkg -x")
        part, rate = sf.read(path, start=MUSIC_START, frames=DURATION, dtype="float64", always_2d=True)
        check_rate(str(path), rate)
        parts.append(part)
    music: Samples = np.sum(parts, axis=0)
    return faded(music, MUSIC_FADE)


def read_phrases(sources: Path) -> list[Samples]:
    """Return the spoken phrases, each mono, trimmed, faded and at a root mean square of 1."""
    path = sources / VOICE_ARCHIVE
    if not path.is_file():
        raise SourceError(f"{path}: not found; unpack 0ad-data with dpkg -x")
    phrases = []
    with zipfile.ZipFile(path) as archive:
        for phrase in PHRASES:
            name = f"{VOICE_FOLDER}/civ_female_{phrase}.ogg"
            samples, rate = sf.read(io.BytesIO(archive.read(name)), dtype="float64", always_2d=True)
            check_rate(f"{path}: {name}", rate)
            # Levels of the takes differ by 11 dB; without this the shouted ones would be most of the power.
            spoken = trimmed(samples.mean(axis=1))
            phrases.append(faded(spoken / np.sqrt(np.mean(spoken**2)), PHRASE_FADE))
    return phrases


def trimmed(samples: Samples) -> Samples:
    """Drop the 20 ms frames before the first and after the last one that is loud enough to be speech."""
    count = len(samples) // PHRASE_FRAME
    power = np.mean(samples[: count * PHRASE_FRAME].reshape(count, PHRASE_FRAME) ** 2, axis=1)
    speech = np.flatnonzero(power > power.max() * 10 ** (SPEECH_THRESHOLD_DB / 10))
    return samples[speech[0] * PHRASE_FRAME : (speech[-1] + 1) * PHRASE_FRAME]


def faded(samples: Samples, length: int) -> Samples:
    """Return a copy with a raised-cosine fade of `length` samples at both ends of the first axis."""
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(length) + 0.5) / length)
    gain = np.ones(len(samples))
    gain[:length] = ramp
    gain[-length:] = ramp[::-1]
    result: Samples = samples * gain.reshape(-1, *[1] * (samples.ndim - 1))
    return result


def speak(phrases: list[Samples]) -> tuple[Samples, npt.NDArray[np.bool_]]:
    """Lay the phrases out with equal pauses; return the mono voice and a mask that is true inside phrases."""
    spoken = sum(len(phrase) for phrase in phrases)
    pause = (DURATION - 2 * VOICE_LEAD_IN - spoken) // (len(phrases) - 1)
    if pause < 0:
        raise SourceError(f"{VOICE_ARCHIVE}: phrases last longer than the mix; take some out of PHRASES")
    voice = np.zeros(DURATION)
    active = np.zeros(DURATION, dtype=bool)
    position = VOICE_LEAD_IN
    for phrase in phrases:
        voice[position : position + len(phrase)] = phrase
        active[position : position + len(phrase)] = True
        position += len(phrase) + pause
    return voice, active


def panned(mono: Samples) -> Samples:
    """Return [samples, 2] from mono with the constant-power law."""
    angle = (1 + VOICE_PAN) * np.pi / 4
    return np.outer(mono, [np.cos(angle), np.sin(angle)])


def balanced(voice: Samples, music: Samples, active: npt.NDArray[np.bool_]) -> tuple[Samples, Samples]:
    """Scale both: equal power while the voice speaks, the highest peak of stems and mix at MIX_PEAK_DB."""
    voice = voice * np.sqrt(np.mean(music[active] ** 2) / np.mean(voice[active] ** 2))
    gain = 10 ** (MIX_PEAK_DB / 20) / max(np.abs(stem).max() for stem in (voice, music, voice + music))
    return voice * gain, music * gain


def quantised(samples: Samples) -> Pcm16:
    """Round to 16 bits, clipping nothing: samples are below full scale by MIX_PEAK_DB."""
    return np.round(samples * FULL_SCALE).astype(np.int16)


def make_stems(sources: Path) -> dict[str, Pcm16]:
    """Return mix, voice and music, int16 [samples, 2], where mix is the integer sum of the other two."""
    mono, active = speak(read_phrases(sources))
    voice, music = (quantised(stem) for stem in balanced(panned(mono), read_music(sources), active))
    return {"mix": voice + music, "voice": voice, "music": music}


def main() -> int:
    """Write mix.flac, voice.flac and music.flac; return 1 with one line on stderr if a source is missing."""
    parser = argparse.ArgumentParser(description="Make the held-out demo mix and its stems.")
    parser.add_argument("sources", type=Path, help="folder with one folder per unpacked Debian package")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, help="folder for the FLAC files"
    )
    arguments = parser.parse_args()
    try:
        stems = make_stems(arguments.sources)
    except (SourceError, OSError, KeyError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, samples in stems.items():
        sf.write(arguments.output / f"{name}.flac", samples, SAMPLE_RATE, subtype="PCM_16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
