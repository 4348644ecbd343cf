"""Random voice-and-music mixes from the cache that data.py makes.

    python mixing.py CACHE FOLDER         write the held-out test mixes as FOLDER/NN/{mix,voice,music}.wav

Training mixes are augmented; held-out ones are not: they differ from the files only in level and pan.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile as sf
import soxr
import torch
from torch import Tensor

from rofo.checkpoints.demo.data import (
    FULL_BAND_RATE,
    FULL_SCALE,
    SAMPLE_RATE,
    Clip,
    DataError,
    Kind,
    Role,
    Samples,
    exit_code,
    load_index,
    load_samples,
)

Rng = np.random.Generator

PAUSE_S: Final = (0.1, 0.6)
# A training chunk is cut out of speech that began up to this long before, as the chunks of a song are.
LEAD_S: Final = 6.0
FADE: Final = SAMPLE_RATE // 200
SPEED: Final = (0.88, 1.14)
LEVEL_DB: Final = (-8.0, 8.0)
MIX_LEVEL_DB: Final = (-32.0, -14.0)
VOICE_ONLY: Final = 0.04
MUSIC_ONLY: Final = 0.06
# Chunks at either end of a song are filled with silence. A network that had never seen digital silence beside
# sound lost up to 8 dB in them.
CUT_OFF: Final = 0.15
REVERB: Final = 0.3
ROOMS: Final = 64
EQ_DB: Final = 3.0
SILENCE: Final = 1e-3
LOWEST_RATE: Final = 22050
# Held-out mixes: seconds, how many, and the seed that draws their files.
HELD_OUT_S: Final = 10
HELD_OUT_MIXES: Final[dict[Role, int]] = {"validation": 12, "test": 32}
HELD_OUT_SEED: Final = 20
# Cries of effort.
NOT_SPOKEN: Final = ("0ad-data/human",)


def rms(samples: Samples) -> float:
    """Root mean square, never zero."""
    return float(np.sqrt(np.mean(np.square(samples)) + 1e-12))


def decibels(value: float) -> float:
    """Return the amplitude factor of a level in dB."""
    return float(10 ** (value / 20))


def panned(mono: Samples, pan: float) -> Samples:
    """Return [2, frames] from mono with the constant-power law, pan from -1 (left) to 1 (right)."""
    angle = (1 + pan) * np.pi / 4
    return np.outer([np.cos(angle), np.sin(angle)], mono).astype(np.float32)


class Library:
    """The cached clips of one role: voices by speaker, and music."""

    def __init__(self, cache: Path, role: Role) -> None:
        self._samples = {kind: load_samples(cache, kind) for kind in _KINDS}
        self.speakers: dict[str, list[Clip]] = {}
        for clip in load_index(cache, "voice", role):
            if clip.speaker not in NOT_SPOKEN and clip.rate >= LOWEST_RATE:
                band = "" if clip.rate >= FULL_BAND_RATE else " narrow"
                self.speakers.setdefault(clip.speaker + band, []).append(clip)
        self.music = load_index(cache, "music", role)
        if not self.music or not self.speakers:
            raise DataError(f"{cache}: no {role} clips; run data.py cache first")

    def part(self, kind: Kind, clip: Clip, start: int, frames: int) -> Samples:
        """Return [channels, frames] of a clip as float32."""
        first = clip.start + start
        return self._samples[kind][first : first + frames].T.astype(np.float32) / np.float32(FULL_SCALE)

    def utterance(self, clip: Clip) -> Samples:
        """Return a whole utterance, mono, faded, at a root mean square of 1."""
        mono = self.part("voice", clip, 0, clip.frames)[0]
        ramp = np.linspace(0, 1, FADE, dtype=np.float32)
        mono[:FADE] *= ramp
        mono[-FADE:] *= ramp[::-1]
        spoken: Samples = mono / np.float32(rms(mono))
        return spoken


_KINDS: Final[tuple[Kind, ...]] = ("voice", "music")


def speech(library: Library, speaker: str, frames: int, rng: Rng) -> Samples:
    """Join a speaker's utterances with pauses into `frames` mono samples; the first may have begun before."""
    clips = library.speakers[speaker]
    voice = np.zeros(frames, np.float32)
    position = 0
    while position < frames:
        utterance = library.utterance(clips[rng.integers(len(clips))]) * decibels(rng.uniform(-3, 3))
        if position == 0:
            utterance = utterance[rng.integers(len(utterance)) // 2 :]
        count = min(len(utterance), frames - position)
        voice[position : position + count] = utterance[:count]
        position += count + int(rng.uniform(*PAUSE_S) * SAMPLE_RATE)
    return voice


def music(library: Library, frames: int, rng: Rng) -> Samples:
    """Return [2, frames] from a random place of a random track, not silent; long tracks are likelier."""
    lengths = np.array([max(clip.frames - frames, 0) for clip in library.music], dtype=np.float64)
    while True:
        clip = library.music[rng.choice(len(lengths), p=lengths / lengths.sum())]
        part = library.part("music", clip, int(rng.integers(clip.frames - frames)), frames)
        if rms(part) > SILENCE:
            return part


@dataclass(frozen=True)
class Batch:
    """Stems of some mixes, float32 [items, 2, frames]."""

    voice: Tensor
    music: Tensor


class Mixer:
    """Draws augmented training batches; filters act on the spectra of the whole batch at once."""

    def __init__(self, library: Library, frames: int, seed: int) -> None:
        self.library, self.frames = library, frames
        self.rng = np.random.default_rng(seed)
        # A speaker with a hundred minutes is heard ten times as often as one with one, not a hundred times.
        minutes = [sum(clip.frames for clip in clips) for clips in library.speakers.values()]
        self._speakers = list(library.speakers)
        self._odds = np.sqrt(minutes) / np.sqrt(minutes).sum()
        self._rooms = _rooms(frames, np.random.default_rng(0))

    def batch(self, items: int) -> Batch:
        """Return `items` new mixes."""
        voices, musics, cutoffs = zip(*(self._item() for _ in range(items)), strict=True)
        both = torch.fft.rfft(torch.from_numpy(np.stack([*voices, *musics])))
        voice, tracks = (both * self._curves(2 * items)).chunk(2)
        voice = voice * self._reverb(items)
        bins = torch.arange(voice.shape[-1]) * (SAMPLE_RATE / self.frames)
        audible = (bins < torch.tensor(cutoffs)[:, None]).unsqueeze(1)
        stems = torch.fft.irfft(torch.cat([voice * audible, tracks * audible]), self.frames).chunk(2)
        return self._cut_off(self._balanced(*stems))

    def _item(self) -> tuple[Samples, Samples, float]:
        """A voice and some music, [2, frames] each, and the frequency in Hz above which both are cut."""
        rng = self.rng
        speaker = self._speakers[rng.choice(len(self._speakers), p=self._odds)]
        speed = rng.uniform(*SPEED)
        lead = int(rng.uniform(0, LEAD_S) * SAMPLE_RATE)
        mono = speech(self.library, speaker, lead + int(self.frames * speed) + 64, rng)[lead:]
        mono = soxr.resample(mono, SAMPLE_RATE * speed, SAMPLE_RATE, quality="LQ")[: self.frames]
        mono = np.pad(mono, (0, self.frames - len(mono)))
        part = music(self.library, self.frames, rng)
        middle, side = part[0] + part[1], (part[0] - part[1]) * np.float32(rng.uniform(0, 1.5))
        wide: Samples = np.stack([middle + side, middle - side])[:: rng.choice([1, -1])]
        # Without this the network would learn that a voice stops where old recordings do.
        rate = min(clip.rate for clip in self.library.speakers[speaker])
        cutoff = 0.47 * rate if rate < FULL_BAND_RATE else SAMPLE_RATE
        return panned(mono, float(np.clip(rng.normal(0, 0.25), -0.8, 0.8))), wide, cutoff

    def _curves(self, items: int) -> Tensor:
        """Random smooth gains over log frequency, [items, 1, bins], as of other microphones and mixes."""
        octaves = torch.linspace(0, 1, 65)
        knots = torch.from_numpy(self.rng.normal(0, EQ_DB, (items, 4, 1)).astype(np.float32))
        phases = torch.from_numpy(self.rng.uniform(0, 2 * np.pi, (items, 4, 1)).astype(np.float32))
        orders = torch.arange(1, 5)[None, :, None]
        coarse = (knots / orders * torch.cos(np.pi * orders * octaves + phases)).sum(1, keepdim=True)
        hertz = torch.arange(self.frames // 2 + 1) * (SAMPLE_RATE / self.frames)
        place = (torch.log2(hertz.clamp(min=40) / 40) / np.log2(SAMPLE_RATE / 80) * 64).long().clamp(max=64)
        return torch.pow(10, coarse / 20)[..., place]

    def _reverb(self, items: int) -> Tensor:
        """Room responses, [items, 2, bins]; 1 for the voices that stay dry."""
        chosen = self._rooms[self.rng.integers(ROOMS, size=items)]
        wet = torch.from_numpy(self.rng.random(items) < REVERB)[:, None, None]
        return torch.where(wet, chosen, torch.ones((), dtype=chosen.dtype))

    def _balanced(self, voice: Tensor, tracks: Tensor) -> Batch:
        """Set the voice's level against the music and that of the mix; leave one out now and then."""
        items = len(voice)
        rng = self.rng
        level = torch.from_numpy(10 ** (rng.uniform(*LEVEL_DB, items) / 20).astype(np.float32))
        gain = torch.from_numpy(10 ** (rng.uniform(*MIX_LEVEL_DB, items) / 20).astype(np.float32))
        draw = torch.from_numpy(rng.random(items))
        voice_gain = gain * level * (draw > MUSIC_ONLY)
        music_gain = gain * (draw < 1 - VOICE_ONLY)
        return Batch(_scaled(voice, voice_gain), _scaled(tracks, music_gain))

    def _cut_off(self, batch: Batch) -> Batch:
        """Silence before or after a random sample, now and then, as at the ends of a song."""
        for voice, tracks in zip(batch.voice, batch.music, strict=True):
            if self.rng.random() < CUT_OFF:
                place = int(self.rng.uniform(0.1, 0.9) * self.frames)
                silent = slice(None, place) if self.rng.random() < 0.5 else slice(place, None)
                voice[:, silent] = 0
                tracks[:, silent] = 0
        return batch


def _scaled(stems: Tensor, level: Tensor) -> Tensor:
    power = stems.square().mean(dim=(1, 2)) + 1e-12
    return stems * (level * power.rsqrt())[:, None, None]


def _rooms(frames: int, rng: Rng) -> Tensor:
    """Spectra of synthetic rooms, [ROOMS, 2, bins]: a direct sound and a decaying noise per channel."""
    seconds = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    spectra = []
    for _ in range(ROOMS):
        decay = np.exp(-6.9 * seconds / rng.uniform(0.1, 0.7))
        tail = rng.normal(size=(2, len(seconds))) * decay * (seconds > rng.uniform(0.002, 0.02))
        tail *= decibels(rng.uniform(-20, -4)) / np.sqrt((tail**2).sum(axis=1, keepdims=True))
        tail[:, 0] = 1
        spectra.append(np.fft.rfft(tail, frames).astype(np.complex64))
    return torch.from_numpy(np.stack(spectra))


def held_out(cache: Path, role: Role) -> Iterator[tuple[str, Samples, Samples]]:
    """Yield name, voice and music ([2, frames], equal power) of the held-out mixes; always the same ones."""
    library = Library(cache, role)
    rng = np.random.default_rng(HELD_OUT_SEED)
    speakers = sorted(library.speakers)
    for number in range(HELD_OUT_MIXES[role]):
        frames = HELD_OUT_S * SAMPLE_RATE
        mono = speech(library, speakers[number % len(speakers)], frames, rng)
        voice, track = panned(mono, rng.uniform(-0.3, 0.3)), music(library, frames, rng)
        voice *= rms(track) / rms(voice)
        scale = 0.7 / max(np.abs(voice + track).max(), np.abs(voice).max(), np.abs(track).max())
        yield f"{number:02d}", voice * scale, track * scale


def write_held_out(cache: Path, folder: Path) -> None:
    """Write the test mixes as 16-bit wave files, FOLDER/NN/{mix,voice,music}.wav."""
    for name, voice, track in held_out(cache, "test"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for stem, samples in (("mix", voice + track), ("voice", voice), ("music", track)):
            sf.write(folder / name / f"{stem}.wav", samples.T, SAMPLE_RATE, subtype="PCM_16")


def main() -> int:
    """Write the test mixes where the command line says."""
    parser = argparse.ArgumentParser(description="Write the held-out test mixes.")
    parser.add_argument("cache", type=Path, help="folder that data.py cache has filled")
    parser.add_argument("folder", type=Path, help="where to write the mixes")
    arguments = parser.parse_args()
    return exit_code(lambda: write_held_out(arguments.cache, arguments.folder))


if __name__ == "__main__":
    sys.exit(main())
