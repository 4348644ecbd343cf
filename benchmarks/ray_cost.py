"""The proof `ray-cost`: what going through Ray costs, beside a plain loop, at ten seconds a song."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rofo import ListedSong, Options, Progress, Separator, separate_list
from rofo.benchmarks.reliability import Proof
from rofo.benchmarks.rounds import Say
from rofo.benchmarks.subject import write_noise
from rofo.benchmarks.tiny import RATE, tiny_engine
from rofo.serving.ray import separate_on_ray

SECONDS = 10.0  # a song
FEW, MANY = 2, 8
MOST = 1.05
ENGINE: dict[str, Any] = {"backend": "onnxruntime", "threads": 1}


def take_ten_seconds(progress: Progress) -> None:
    """Wait, as for a GPU, so that a song of a tiny engine takes ten seconds on a busy machine, too."""
    time.sleep(max(0.0, SECONDS * progress.done / (progress.total or 1) - progress.elapsed))


def prove(count: int, folder: Path, say: Say) -> Proof:
    """`count` rounds. A song's cost is the difference between many and few; the rest is the start."""
    engine = tiny_engine(folder)
    songs = [ListedSong(f"{n}", write_noise(folder / f"{n}.wav", 1, RATE, 2, seed=n)) for n in range(MANY)]
    options = Options(progress=take_ten_seconds)

    def plain(output: Path, some: list[ListedSong]) -> None:
        with Separator(engine, **ENGINE) as separator:
            assert all(row.status == "done" for row in separate_list(separator, some, output, options))

    def on_ray(output: Path, some: list[ListedSong]) -> None:
        rows = separate_on_ray(some, engine, str(output), options, workers=1, **ENGINE)
        assert all(row.status == "done" for row in rows)

    on_ray(folder / "warm", songs[:1])  # Ray itself is started once
    spent: dict[str, list[tuple[float, float]]] = {"plain": [], "ray": []}
    for number in range(count):
        for name, door in (("plain", plain), ("ray", on_ray)):
            few, many = (_seconds(door, folder / f"{name} {number} {n}", songs[:n]) for n in (FEW, MANY))
            each = (many - few) / (MANY - FEW)
            spent[name].append((each, few - FEW * each))
            say(
                f"round {number + 1} of {count}, {name}: {each:.2f} s a song, {few - FEW * each:.1f} s before"
            )
    ratios = [ray / plain for (ray, _), (plain, _) in zip(spent["ray"], spent["plain"], strict=True)]
    ratio = median(ratios)
    return Proof(
        "A song of ten seconds takes at most 5 % longer through Ray than in a plain loop.",
        {
            "times a plain loop, median": round(ratio, 4),
            "in each round": json.dumps([round(r, 4) for r in ratios]),
            **{f"{name}: seconds a song": round(median(t for t, _ in s), 3) for name, s in spent.items()},
            **{
                f"{name}: seconds to start a job": round(median(b for _, b in s), 2)
                for name, s in spent.items()
            },
        },
        () if ratio <= MOST else (f"{ratio:.3f} times a plain loop",),
    )


def _seconds(door: Callable[[Path, list[ListedSong]], None], output: Path, songs: list[ListedSong]) -> float:
    began = time.perf_counter()
    door(output, songs)
    return time.perf_counter() - began
