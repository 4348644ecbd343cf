"""The proof `soak`: one Separator, eight threads, songs of all kinds through all doors, cancels at random."""

import hashlib
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rofo import CancelledError, Options, Separator
from rofo.benchmarks.held import Held, engine_made_elsewhere, growth, leaks
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.console import one_heap
from rofo.manifest import file_sha256

THREADS = 8
MOST = 0.02
_SPELLS = 30  # of work, with a look at what is held after each
_CANCELLED = 0.3  # of all calls
_KINDS = [
    (rate, channels, seconds)
    for rate in (8000, 22050, 44100, 48000, 96000)
    for channels in (1, 2)
    for seconds in (0.001, 0.3, 1.2)
]
Digests = Mapping[str, str]


@dataclass(frozen=True)
class _Song:
    """A song as an array (channels, samples) and as a file, with the sha256 of its stems by door."""

    mix: Any
    rate: int
    file: Path
    wanted: dict[str, Digests] = field(default_factory=dict)


def prove(count: int, folder: Path, say: Say) -> Proof:
    """For `count` minutes."""
    one_heap()
    seen, counts, failures = [], Counter[str](), list[str]()
    with Separator(engine_made_elsewhere(folder), threads=1) as separator:
        songs = [_song(folder, number, *kind) for number, kind in enumerate(_KINDS)]
        for song in songs:
            song.wanted.update({name: door(separator, song, Options()) for name, door in DOORS.items()})
        rest = Held.now().threads
        for spell in range(_SPELLS):
            end = time.monotonic() + count * 60 / _SPELLS
            threads = [
                threading.Thread(
                    target=_work, args=(separator, songs, f"{spell} {number}", end, counts, failures)
                )
                for number in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen.append(Held.now(rest))
            say(
                f"{spell + 1} of {_SPELLS}: {sum(counts.values()):,} songs, {seen[-1]}, {len(failures)} wrong"
            )
    figures = {
        "minutes": count,
        "threads": THREADS,
        **{name: counts[name] for name in sorted(counts)},
        "growth of memory in the last third, %": round(100 * growth(seen), 2),
        "MB at the end": round(seen[-1].mb, 1),
        "file handles more than at the start": seen[-1].handles - seen[0].handles,
        "threads more than at the start": seen[-1].threads - rest,
    }
    return Proof(
        "Eight threads on one Separator get the bits that one alone gets, whatever is cancelled beside them; "
        "memory is flat within 2 %, and no thread or file handle is left.",
        figures,
        (*failures[:20], *leaks(seen, MOST)),
    )


def _work(
    separator: Separator, songs: list[_Song], seed: str, end: float, counts: Counter[str], failures: list[str]
) -> None:
    draw = random.Random(seed)
    while time.monotonic() < end:
        song, name = draw.choice(songs), draw.choice(list(DOORS))
        cancel, chunks = threading.Event(), draw.randrange(12) if draw.random() < _CANCELLED else None
        options = Options(cancel=cancel, progress=_after(chunks, cancel))
        if chunks == 0:
            cancel.set()
        try:
            made = DOORS[name](separator, song, options)
        except CancelledError:
            counts["cancelled"] += 1
            if not cancel.is_set():
                failures.append(f"{name} of {song.file.name}: cancelled, and nobody asked for it")
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            failures.append(f"{name} of {song.file.name}: {type(error).__name__}: {error}")
        else:
            counts[f"by {name}"] += 1
            if made != song.wanted[name]:
                failures.append(f"{name} of {song.file.name}: other samples than alone")


def _after(chunks: int | None, cancel: threading.Event) -> Callable[[object], None]:
    """A callback that cancels when it is called for the so manyth time."""
    left = [chunks]

    def progress(_: object) -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] <= 0:
                cancel.set()

    return progress


def _song(folder: Path, number: int, rate: int, channels: int, seconds: float) -> _Song:
    mix = np.random.default_rng(number).uniform(-0.5, 0.5, (channels, max(1, int(rate * seconds))))
    path = folder / f"{number}-{rate}-{channels}-{seconds}.wav"
    soundfile.write(path, mix.T, rate, subtype="PCM_16")
    return _Song(mix.astype(np.float32), rate, path)


def _array(separator: Separator, song: _Song, options: Options) -> Digests:
    return _digests(separator.separate(song.mix, song.rate, options))


def _stream(separator: Separator, song: _Song, options: Options) -> Digests:
    blocks = np.array_split(song.mix, 5, axis=1)
    parts = list(separator.stream([block for block in blocks if block.shape[1]], song.rate, options))
    return _digests({name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]})


def _two(separator: Separator, song: _Song, options: Options) -> Digests:
    one, other = separator.separate_songs([song.mix, song.mix[:, ::-1]], song.rate, options)
    return _digests({**one, **{f"reversed {name}": stem for name, stem in other.items()}})


def _file(separator: Separator, song: _Song, options: Options) -> Digests:
    folder = tempfile.mkdtemp(dir=song.file.parent)
    try:
        paths = separator.separate_file(song.file, folder, options)
        return {name: file_sha256(path) for name, path in paths.items()}
    finally:
        left = [path for path in Path(folder).rglob("*") if path.is_file()]
        shutil.rmtree(folder)
        if options.cancel is not None and options.cancel.is_set() and len(left) not in (0, 3):
            raise AssertionError(f"{len(left)} files were left")


def _digests(stems: Mapping[str, Any]) -> Digests:
    return {name: hashlib.sha256(stem.tobytes()).hexdigest() for name, stem in stems.items()}


DOORS: dict[str, Callable[[Separator, _Song, Options], Digests]] = {
    "separate": _array,
    "stream": _stream,
    "separate_songs": _two,
    "separate_file": _file,
}
