"""`rofo-bench speed`: throughput, load time, memory and where the time goes, as ratios within one run.

Every contestant is a process of its own, on the same number of pinned threads: it loads, is warmed up on a
chunk, and separates the same song. They take turns, round by round; figures are medians with their extremes.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import soundfile

from rofo.benchmarks import machine
from rofo.benchmarks.contestants import ROFO, Choice, Contestant, contestants
from rofo.benchmarks.probe import Job, Run, measure
from rofo.benchmarks.processes import reported
from rofo.benchmarks.results import Limits, Part, Speed, SpeedRow, Spread
from rofo.benchmarks.rounds import Log, Say, take_turns
from rofo.benchmarks.stopwatch import ENGINE
from rofo.benchmarks.subject import Subject, Told
from rofo.benchmarks.system import prepare_any
from rofo.benchmarks.tools import TOOLS, Tool
from rofo.manifest import PRECISIONS

_BYTES = {"fp32": 4, "int8": 1}  # of a weight; 2 in the others


@dataclass(frozen=True)
class Entrant:
    """Who runs under a name: `run` separates the song once. Others on its device are held to a `baseline`.

    A recipe is held to `apart` too, the name of who makes its runs one by one.
    """

    name: str
    device: str
    precision: str
    baseline: bool
    run: Callable[[], Run]
    apart: str | None = None


def measure_speed(target: Path, told: Told, choice: Choice, *, rounds: int, chunks: int, say: Say) -> Speed:
    """Measure everything that can run; what cannot is told in `about.left_out`. The song has `chunks`.

    Raises the errors of rofo.benchmarks.subject, and EngineRunError where nothing could run.
    """
    log = Log(say)
    rates: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"{target.name}: preparing")
        subject = prepare_any(target, told, folder, log, choice)
        song = subject.write_song(folder / "song.wav", subject.step * chunks)
        field = entrants(subject, song, choice, folder, log)
        on_cpu = {entrant.precision for entrant in field if entrant.device == "cpu"}
        precisions = sorted(on_cpu & set(PRECISIONS))  # the limits are the processor's

        def measure_limits() -> None:
            job = choice.threads, precisions
            rates.append(reported("rofo.benchmarks.machine", job, threads=choice.threads)[1])

        turns = {entrant.name: entrant.run for entrant in field}
        runs = take_turns(turns, rounds, log, measure_limits)
        model = subject.model()
    limits = _limits(rates)
    count = max(run.runs for some in runs.values() for run in some)
    best = BestRates(limits, (model.tflop or 0) * model.batch * count, (model.weights_gb or 0) * count)
    present = [entrant for entrant in field if entrant.name in runs]
    baselines = {entrant.device: runs[entrant.name] for entrant in reversed(present) if entrant.baseline}
    return Speed(
        kind="speed",
        about=machine.about(choice.threads, log.left_out),
        model=model,
        song_seconds=next(iter(runs.values()))[0].song,
        chunks=count * model.batch,
        rounds=rounds,
        limits=limits,
        exported=subject.exported,
        rows=tuple(
            speed_row(one, runs[one.name], baselines.get(one.device), best, runs.get(one.apart or ""))
            for one in present
        ),
    )


def entrants(subject: Subject, song: Path, choice: Choice, folder: Path, log: Log) -> list[Entrant]:
    """Everyone who can be asked to run; who cannot is left out."""
    if subject.checkpoint is None:
        log.leave_out("PyTorch", "what was given is an engine; give its checkpoint instead")
    field = [_entrant(one, Job(one, subject, song, choice.threads)) for one in contestants(subject, choice)]
    for tool in TOOLS if "cpu" in choice.devices else ():
        if reason := "runs networks, not recipes" if subject.is_recipe else tool.missing():
            log.leave_out(tool.program, reason)
        else:
            field.append(_tool(tool, subject, song, folder, choice.threads))
    return field


@dataclass(frozen=True)
class BestRates:
    """The processor's limits, and what a song demands of them: TFLOP in all, GB of float32 weights in all."""

    limits: Limits
    tflop: float
    weights_gb: float

    def of_matrix(self, seconds: float, precision: str) -> float | None:
        """Share of the matrix rate, None where that or the graph's arithmetic is not known."""
        rate = self.limits.rate(precision)
        return round(self.tflop * 1e3 / seconds / rate.median, 3) if rate and self.tflop else None

    def of_memory(self, seconds: float, precision: str) -> float | None:
        """Share of the memory's rate that reading all weights once per run takes: a lower bound."""
        gigabytes = self.weights_gb * _BYTES.get(precision, 2) / 4
        return round(gigabytes / seconds / self.limits.copy_gb.median, 4) if gigabytes else None


def speed_row(
    who: Entrant, runs: Sequence[Run], baseline: Sequence[Run] | None, best: BestRates,
    apart: Sequence[Run] | None = None,
) -> SpeedRow:  # fmt: skip
    """The row of one contestant; `baseline` are the runs of PyTorch, round by round, `apart` one by one."""
    parts = _parts([run.parts for run in runs])
    engine = next((part.seconds.median for part in parts if part.name == ENGINE), None)
    shared = engine if who.device == "cpu" else None
    return SpeedRow(
        name=who.name,
        device=who.device,
        precision=who.precision,
        real_time=Spread.of([run.song / run.elapsed for run in runs]),
        times_pytorch=_ratios(baseline, runs, "elapsed"),
        process=Spread.of([run.process for run in runs]),
        load=_spread([run.load for run in runs]),
        first=_spread([run.first for run in runs]),
        outside=_spread([run.outside for run in runs]),
        parts=parts,
        peak_mb=Spread.of([run.peak_mb for run in runs]),
        of_matrix=best.of_matrix(shared, who.precision) if shared else None,
        of_memory=best.of_memory(shared, who.precision) if shared else None,
        cpu=_spread([run.cpu for run in runs]),
        cpu_of_pytorch=_ratios(runs, baseline, "cpu"),
        time_of_runs=_ratios(runs, apart, "elapsed"),
        cpu_of_runs=_ratios(runs, apart, "cpu"),
    )


def _entrant(one: Contestant, job: Job) -> Entrant:
    together = job.subject.is_recipe and one.kind == ROFO and not one.apart
    apart = replace(one, apart=True).name if together else None
    return Entrant(one.name, one.device, one.precision, one.is_baseline, lambda: measure(job), apart)


def _tool(tool: Tool, subject: Subject, song: Path, folder: Path, threads: int) -> Entrant:
    """A tool's song cannot be told from its start: the whole process counts."""

    def run() -> Run:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            took = tool.run(subject, song, Path(own), threads)
        return Run(soundfile.info(song).duration, took.seconds, took.seconds, took.peak_mb)

    return Entrant(f"{tool.program} (whole process)", "cpu", "its own", False, run)


def _ratios(
    runs: Sequence[Run] | None, others: Sequence[Run] | None, what: Literal["elapsed", "cpu"]
) -> Spread | None:
    """Each round against the same round: the machine's moods cancel out. None where either is not known."""
    pairs = [
        (getattr(one, what), getattr(other, what))
        for one, other in zip(runs or (), others or (), strict=False)
    ]
    return _spread([one / other for one, other in pairs if one and other])


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if known else None


def _parts(runs: Sequence[Mapping[str, float]]) -> tuple[Part, ...]:
    return tuple(Part(name, Spread.of([parts[name] for parts in runs])) for name in runs[0])


def _limits(rates: Sequence[Mapping[str, Any]]) -> Limits:
    names = rates[0]["gflops"]
    gflops = {name: asdict(Spread.of([rate["gflops"][name] for rate in rates])) for name in names}
    return Limits(gflops, Spread.of([rate["copy_gb"] for rate in rates]))
