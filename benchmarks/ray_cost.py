"""The proof `ray-cost`: what going through Ray costs, beside a plain loop, at ten seconds a song."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rofo import ListedSong, Options, Progress, Separator, separate_list
from rofo.audio.record import NAME as RECORD
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.benchmarks.subject import write_noise
from rofo.benchmarks.tiny import RATE, tiny_engine
from rofo.serving.ray import separate_on_ray

SECONDS = 10.0  # a song
SONGS = 8
MOST = 1.05
ENGINE: dict[str, Any] = {"backend": "onnxruntime", "threads": 1}


def take_ten_seconds(progress: Progress) -> None:
    """Wait, as for a GPU, so that a song of a tiny engine takes ten seconds on a busy machine, too."""
    time.sleep(max(0.0, SECONDS * progress.done / (progress.total or 1) - progress.elapsed))


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` rounds. A song costs what lies between the ends of two; the rest is start and end."""
    engine = tiny_engine(folder)
    songs = [ListedSong(f"{n}", write_noise(folder / f"{n}.wav", 1, RATE, 2, seed=n)) for n in range(SONGS)]
    options = Options(progress=take_ten_seconds)

    def plain(output: Path) -> None:
        with Separator(engine, **ENGINE) as separator:
            assert all(row.status == "done" for row in separate_list(separator, songs, output, options))

    def on_ray(output: Path) -> None:
        rows = separate_on_ray(songs, engine, str(output), options, workers=1, **ENGINE)
        assert all(row.status == "done" for row in rows)

    spent: dict[str, list[tuple[float, float]]] = {"plain": [], "ray": []}
    for number in range(count):
        for name, door in (("plain", plain), ("ray", on_ray)):
            each, rest = _seconds(door, folder / f"{name} {number}")
            spent[name].append((each, rest))
            say(f"round {number + 1} of {count}, {name}: {each:.3f} s a song, {rest:.1f} s beside")
    ratios = [ray / plain for (ray, _), (plain, _) in zip(spent["ray"], spent["plain"], strict=True)]
    ratio = median(ratios)
    return Proof(
        "A song of ten seconds takes at most 5 % longer through Ray than in a plain loop.",
        {
            "times a plain loop, median": round(ratio, 4),
            "in each round": json.dumps([round(r, 4) for r in ratios]),
            **{f"{name}: seconds a song": round(median(t for t, _ in s), 3) for name, s in spent.items()},
            **{
                f"{name}: seconds of a job beside its songs": round(median(b for _, b in s), 2)
                for name, s in spent.items()
            },
        },
        () if ratio <= MOST else (f"{ratio:.3f} times a plain loop",),
    )


def _seconds(door: Callable[[Path], None], output: Path) -> tuple[float, float]:
    """Of a song, from the end of the one before, which the records tell; and of the job beside all songs."""
    began = time.perf_counter()
    door(output)
    took = time.perf_counter() - began
    ends = sorted(path.stat().st_mtime for path in output.glob(f"*/{RECORD}"))
    each = (ends[-1] - ends[0]) / (SONGS - 1)
    return each, took - SONGS * each
