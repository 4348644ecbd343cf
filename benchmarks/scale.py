"""`rofo-bench scale`: how time and memory grow with length of song, number of stems, batch and threads."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rofo.benchmarks import machine
from rofo.benchmarks.contestants import Choice, Contestant
from rofo.benchmarks.prepare import Subject, is_engine, prepare, write_song
from rofo.benchmarks.probe import Job
from rofo.benchmarks.processes import reported
from rofo.benchmarks.reference import Told
from rofo.benchmarks.results import LeftOut, Point, Scale, Spread
from rofo.errors import EngineRunError, RofoError
from rofo.text import one_line

Say = Callable[[str], None]
Axis = Literal["seconds", "stems", "batch", "threads"]

# Song for all axes but its own length, in runs of the engine: enough to fill the pipeline several times.
_RUNS = 4


@dataclass(frozen=True)
class Values:
    """The values of every axis. `most` is how many seconds a point may take, by what shorter ones took."""

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

    Raises the errors of rofo.benchmarks.prepare, and EngineRunError where nothing could run.
    """
    left_out: list[LeftOut] = []
    with tempfile.TemporaryDirectory() as folder:
        say(f"{target.name}: preparing")
        cases = _Cases(target, told, choice, values, Path(folder), left_out)
        runs = _runs(list(cases), rounds, values.most, left_out, say)
        first = next(iter(runs.values()))[0]
        model, song_seconds = cases.subject.model(), cases.song_seconds
    return Scale(
        kind="scale",
        about=machine.about(choice.threads, left_out),
        model=model,
        backend=first["backend"],
        precision=first["precision"],
        song_seconds=song_seconds,
        rounds=rounds,
        points=tuple(_point(case, facts) for case, facts in runs.items()),
    )


class _Cases:
    """All points of all axes. Engines of other batches are exported on the way."""

    def __init__(
        self, target: Path, told: Told, choice: Choice, values: Values, folder: Path,
        left_out: list[LeftOut],
    ) -> None:  # fmt: skip
        self._target, self._told, self._choice, self._values = target, told, choice, values
        self._folder, self._left_out = folder, left_out
        self.subject = prepare(target, told, folder)
        self.song_seconds = round(self.subject.step * _RUNS, 3)
        backend, precision = (next(iter(names), "auto") for names in (choice.backends, choice.precisions))
        self._contestant = Contestant("rofo", "rofo", precision, backend)
        self._song = cache(self._written)

    def __iter__(self) -> Iterator[_Case]:
        for seconds in self._values.seconds:
            yield self._case("seconds", seconds, self.subject, seconds)
        manifest = self.subject.manifest
        for count in range(1, len(manifest.stems) + (manifest.residual is not None) + 1):
            yield self._case("stems", count, self.subject, self.song_seconds, stems=count)
        for threads in self._values.threads:
            yield self._case("threads", threads, self.subject, self.song_seconds, threads=threads)
        yield from self._batches()

    def _batches(self) -> Iterator[_Case]:
        """The longest batch decides the song, so that all have the same and none is half empty."""
        if is_engine(self._target):
            self._left_out.append(LeftOut("batch", "an engine has one batch; give its checkpoint instead"))
            return
        seconds = self.song_seconds * max(self._values.batches, default=1) / self.subject.batch
        for batch in self._values.batches:
            same = batch == self.subject.batch
            subject = self.subject if same else prepare(self._target, self._told, self._folder, batch)
            yield self._case("batch", batch, subject, seconds)

    def _case(self, axis: Axis, value: float, subject: Subject, seconds: float, **changes: Any) -> _Case:
        options = {"threads": self._choice.threads, **changes}
        job = Job(self._contestant, subject.source, self._song(seconds), **options)
        return _Case(axis, value, seconds, job)

    def _written(self, seconds: float) -> Path:
        return write_song(self._folder / f"{seconds:g}.wav", seconds, self.subject.manifest)


def _runs(
    cases: Sequence[_Case], rounds: int, most: float, left_out: list[LeftOut], say: Say
) -> dict[_Case, list[dict[str, Any]]]:
    """What every case measured in every round; one that fails, or would take too long, is out for good."""
    runs: dict[_Case, list[dict[str, Any]]] = {case: [] for case in cases}
    pace = 0.0
    for _ in range(rounds):
        for case in list(runs):
            label = f"{case.axis} {case.value:g}"
            try:
                if (needed := pace * case.song_seconds) > most:
                    raise EngineRunError(f"it would take {needed:,.0f} s, more than {most:,.0f}")
                job = case.job
                outside, inside = reported("rofo.benchmarks.probe", job, threads=job.threads)
            except RofoError as error:
                left_out.append(LeftOut(label, one_line(error, 300)))
                say(f"{label}: left out: {left_out[-1].why}")
                del runs[case]
                continue
            runs[case].append({**inside, "peak_mb": outside.peak_mb})
            pace = inside["elapsed"] / inside["song"]
            say(f"{label}: {inside['elapsed']:.3g} s, {outside.peak_mb:.0f} MB")
    if not runs:
        raise EngineRunError(f"nothing could run; {left_out[-1].what}: {left_out[-1].why}")
    return runs


def _point(case: _Case, runs: Sequence[dict[str, Any]]) -> Point:
    return Point(
        axis=case.axis,
        value=case.value,
        elapsed=Spread.of([run["elapsed"] for run in runs]),
        real_time=Spread.of([run["song"] / run["elapsed"] for run in runs]),
        peak_mb=Spread.of([run["peak_mb"] for run in runs]),
    )
