"""`rofo-bench scale`: how time and memory grow with length of song, number of stems, batch and threads."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from rofo.benchmarks import machine
from rofo.benchmarks.contestants import ROFO, Choice, Contestant
from rofo.benchmarks.probe import Job, Run, measure
from rofo.benchmarks.results import Point, Scale, Spread
from rofo.benchmarks.rounds import Log, Say, take_turns
from rofo.benchmarks.subject import Subject, Told, is_engine, prepare
from rofo.errors import EngineRunError

Axis = Literal["seconds", "stems", "batch", "threads"]

# Song for all axes but its own length, in runs of the engine: enough to fill the pipeline several times.
_RUNS = 4


@dataclass(frozen=True)
class Values:
    """The values of every axis. `most` is how many seconds a point may take, by what the last one took."""

    seconds: tuple[float, ...]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    most: float


@dataclass(frozen=True)
class _Case:
    """One point to be: its place on an axis, and the job that measures it."""

    axis: Axis
    value: float
    song_seconds: float
    job: Job


def measure_scale(
    target: Path, told: Told, choice: Choice, values: Values, *, rounds: int, say: Say
) -> Scale:
    """Measure point after point, `rounds` times. What cannot run is told in `about.left_out`.

    Raises the errors of rofo.benchmarks.subject, and EngineRunError where nothing could run.
    """
    log = Log(say)
    with tempfile.TemporaryDirectory() as folder:
        say(f"{target.name}: preparing")
        subject = prepare(target, told, Path(folder), log)
        song_seconds = round(subject.step * _RUNS, 3)

        def batched(batch: int) -> Subject:
            return subject if batch == subject.batch else prepare(target, told, Path(folder), log, batch)

        if is_engine(target):
            log.leave_out("batch", "an engine has one batch; give its checkpoint instead")
            values = Values(values.seconds, (), values.threads, values.most)
        cases = {
            f"{case.axis} {case.value:g}": case
            for case in _cases(subject, batched, choice, values, song_seconds, Path(folder))
        }
        runs, model = take_turns(_within(cases, values.most), rounds, log), subject.model()
    first = next(iter(runs.values()))[0]
    return Scale(
        kind="scale",
        about=machine.about(choice.threads, log.left_out),
        model=model,
        backend=first.backend,
        precision=first.precision,
        song_seconds=song_seconds,
        rounds=rounds,
        points=tuple(_point(cases[label], some) for label, some in runs.items()),
    )


def _cases(
    subject: Subject, batched: Callable[[int], Subject], choice: Choice, values: Values, usual: float,
    folder: Path,
) -> Iterator[_Case]:  # fmt: skip
    """All points of all axes; a song of `usual` seconds where its length does not vary."""
    backend, precision = (next(iter(names), "auto") for names in (choice.backends, choice.precisions))

    @cache
    def song(seconds: float) -> Path:
        return subject.write_song(folder / f"{seconds:g}.wav", seconds)

    def case(axis: Axis, value: float, seconds: float, of: Subject = subject, **changes: Any) -> _Case:
        one = Contestant(ROFO, of.engine, precision, backend=backend)
        return _Case(
            axis, value, seconds, Job(one, of, song(seconds), **{"threads": choice.threads, **changes})
        )

    manifest = subject.manifest
    for seconds in values.seconds:
        yield case("seconds", seconds, seconds)
    for count in range(1, len(manifest.stems) + (manifest.residual is not None) + 1):
        yield case("stems", count, usual, stems=count)
    for threads in values.threads:
        yield case("threads", threads, usual, threads=threads)
    # The largest batch decides the song, so that all have the same and none is half empty.
    longest = usual * max(values.batches, default=1) / subject.batch
    for batch in values.batches:
        yield case("batch", batch, longest, batched(batch))


def _within(cases: dict[str, _Case], most: float) -> dict[str, Callable[[], Run]]:
    """Every case as something to run, which refuses to take longer than `most` seconds at the last pace."""
    pace = 0.0

    def run(case: _Case) -> Run:
        nonlocal pace
        if (needed := pace * case.song_seconds) > most:
            raise EngineRunError(f"it would take {needed:,.0f} s, more than {most:,.0f}")
        found = measure(case.job)
        pace = found.elapsed / found.song
        return found

    return {label: partial(run, case) for label, case in cases.items()}


def _point(case: _Case, runs: list[Run]) -> Point:
    return Point(
        axis=case.axis,
        value=case.value,
        elapsed=Spread.of([run.elapsed for run in runs]),
        real_time=Spread.of([run.song / run.elapsed for run in runs]),
        peak_mb=Spread.of([run.peak_mb for run in runs]),
    )
