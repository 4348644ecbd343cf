"""`rofo-bench speed`: throughput, load time, memory and where the time goes, as ratios within one run.

Every contestant is a process of its own, on the same number of pinned threads: it loads, is warmed up on a
chunk, and separates the same song. They take turns, round by round; figures are medians with their extremes.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import soundfile

from rofo.benchmarks import contestants, machine
from rofo.benchmarks.contestants import Choice, Contestant
from rofo.benchmarks.prepare import Subject, prepare, write_song
from rofo.benchmarks.probe import Job
from rofo.benchmarks.processes import reported
from rofo.benchmarks.reference import NETWORK, PYMSS, RESTATED, Setting, Told
from rofo.benchmarks.results import About, LeftOut, Limits, Speed, Spread
from rofo.benchmarks.speed_rows import BestRates, Facts, speed_row
from rofo.benchmarks.tools import TOOLS, Tool
from rofo.errors import EngineRunError, RofoError
from rofo.text import one_line

Say = Callable[[str], None]
PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Entrant:
    """Who runs under a name: `run` separates the song once and tells what it measured.

    Others on the same device are compared with a `baseline`.
    """

    name: str
    device: str
    precision: str
    baseline: bool
    run: Callable[[], Facts]


def measure_speed(target: Path, told: Told, choice: Choice, *, rounds: int, chunks: int, say: Say) -> Speed:
    """Measure everything that can run; what cannot is told in `about.left_out`. The song has `chunks`.

    Raises the errors of rofo.benchmarks.prepare, and EngineRunError where nothing could run.
    """
    left_out: list[LeftOut] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"{target.name}: preparing")
        subject = prepare(target, told, folder)
        song = write_song(folder / "song.wav", subject.step * chunks, subject.manifest)
        field = entrants(subject, song, choice, folder, left_out)
        precisions = sorted({entrant.precision for entrant in field} & set(PRECISIONS))
        limits = partial(_limits, choice.threads, precisions)
        runs, rates = take_turns(field, limits, rounds, left_out, say)
        return _result(subject, field, runs, rates, rounds, machine.about(choice.threads, left_out))


def entrants(
    subject: Subject, song: Path, choice: Choice, folder: Path, left_out: list[LeftOut]
) -> list[Entrant]:
    """Everyone who can be asked to run; who cannot goes to `left_out`."""
    field = contestants.engines(subject.source, subject.manifest, choice)
    if subject.source.engine.suffix == ".onnx" and choice.wants(Setting("fp32")):
        field.append(contestants.plain())
    others = contestants.pytorch(subject.source, subject.manifest, choice)
    if not others:
        left_out.append(LeftOut("PyTorch", "what was given is no checkpoint of a PyTorch network"))
    missing = {tool.program: tool.missing() for tool in TOOLS}
    left_out += [LeftOut(program, reason) for program, reason in missing.items() if reason]
    tools = [tool for tool in TOOLS if not missing[tool.program]]
    own = [_entrant(one, subject, song, choice.threads) for one in (*others, *field)]
    return own + [_tool(tool, subject, song, folder, choice.threads) for tool in tools]


def take_turns(
    field: Sequence[Entrant], limits: Callable[[], Facts], rounds: int, left_out: list[LeftOut], say: Say
) -> tuple[dict[str, list[Facts]], list[Facts]]:
    """Every entrant once per round, and the machine's limits beside them. One that fails is out for good."""
    runs: dict[str, list[Facts]] = {entrant.name: [] for entrant in field}
    rates = []
    for number in range(1, rounds + 1):
        for entrant in [one for one in field if one.name in runs]:
            try:
                facts = entrant.run()
            except RofoError as error:
                left_out.append(LeftOut(entrant.name, one_line(error, 300)))
                say(f"{entrant.name}: left out: {left_out[-1].why}")
                del runs[entrant.name]
                continue
            runs[entrant.name].append(facts)
            say(f"{entrant.name}: round {number} of {rounds}: {facts['elapsed']:.3g} s")
        rates.append(limits())
    if not runs:
        raise EngineRunError(f"nothing could run; {left_out[-1].what}: {left_out[-1].why}")
    return runs, rates


def _entrant(contestant: Contestant, subject: Subject, song: Path, threads: int) -> Entrant:
    def run() -> Facts:
        outside, inside = reported("rofo.benchmarks.probe", job, threads=threads)
        return {**inside, "process": outside.seconds, "peak_mb": outside.peak_mb}

    job = Job(contestant, subject.source, song, threads)
    baseline = contestant.kind in (PYMSS, RESTATED, NETWORK) and contestant.setting.eager
    return Entrant(contestant.name, contestant.device, contestant.precision, baseline, run)


def _tool(tool: Tool, subject: Subject, song: Path, folder: Path, threads: int) -> Entrant:
    """A tool's song cannot be told from its start: the whole process counts."""

    def run() -> Facts:
        with tempfile.TemporaryDirectory(dir=folder) as own:
            took = tool.run(subject, song, Path(own), threads)
        return {"song": seconds, "elapsed": took.seconds, "process": took.seconds, "peak_mb": took.peak_mb}

    seconds = soundfile.info(song).duration
    return Entrant(f"{tool.program} (whole process)", "cpu", "its own", False, run)


def _limits(threads: int, precisions: Sequence[str]) -> Facts:
    return reported("rofo.benchmarks.machine", (threads, precisions), threads=threads)[1]


def _result(
    subject: Subject, field: Sequence[Entrant], runs: dict[str, list[Facts]], rates: list[Facts],
    rounds: int, about: About,
) -> Speed:  # fmt: skip
    model, limits = subject.model(), _spread(rates)
    present = [entrant for entrant in field if entrant.name in runs]
    counts = {facts["runs"] for name in runs for facts in runs[name] if "runs" in facts}
    count, song = max(counts, default=0), next(iter(runs.values()))[0]["song"]
    baselines = {entrant.device: runs[entrant.name] for entrant in reversed(present) if entrant.baseline}
    best = BestRates(limits, (model.tflop or 0) * model.batch * count, (model.weights_gb or 0) * count)
    return Speed(
        kind="speed",
        about=about,
        model=model,
        song_seconds=song,
        chunks=count * model.batch,
        rounds=rounds,
        limits=limits,
        exported=subject.exported,
        rows=tuple(
            speed_row(entrant, runs[entrant.name], baselines.get(entrant.device), best) for entrant in present
        ),
    )


def _spread(rates: Sequence[Facts]) -> Limits:
    names = rates[0]["gflops"]
    gflops = {name: asdict(Spread.of([rate["gflops"][name] for rate in rates])) for name in names}
    return Limits(gflops, Spread.of([rate["copy_gb"] for rate in rates]))
