"""rofo-bench: throughput and parity against PyTorch, as tables and plots."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rofo.console import command_line, note
from rofo.engines import BACKENDS
from rofo.manifest import PRECISIONS

if TYPE_CHECKING:
    from rofo.benchmarks.contestants import Choice
    from rofo.benchmarks.results import Result
    from rofo.benchmarks.subject import Told

RESULTS = Path("benchmarks") / "results"
_FILE = click.Path(path_type=Path)
_CONTEXT = {"help_option_names": ["-h", "--help"]}
_results = click.option(
    "--results",
    type=_FILE,
    default=RESULTS,
    show_default=True,
    metavar="DIR",
    help="Folder of the JSON files.",
)
_BACKEND, _PRECISION = click.Choice(list(BACKENDS)), click.Choice(PRECISIONS)
_ONLY = "Only this; may be repeated."
_threads = click.option(
    "--threads", type=click.IntRange(1), help="Threads, pinned to cores; default: all cores."
)
_rounds = click.option(
    "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Repeats; medians are reported."
)


def _told(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say what a checkpoint does not, handed over as one."""

    @wraps(command)
    def call(
        config: Path | None, n_fft: int | None, stem: str | None, compensate: float | None, **others: Any
    ) -> None:
        from rofo.benchmarks.subject import Told

        stems = tuple(name.strip() for name in stem.split(",")) if stem else None
        given = {"n_fft": n_fft, "stems": stems, "compensate": compensate}
        told = Told(config, {name: value for name, value in given.items() if value is not None})
        command(told=told, **others)

    for option in (
        click.option("--compensate", type=float, metavar="GAIN", help="As for rofo-export."),
        click.option("--stem", metavar="NAME,NAME", help="As for rofo-export."),
        click.option("--n-fft", type=click.IntRange(2), metavar="SAMPLES", help="As for rofo-export."),
        click.option("--config", type=_FILE, help="MSST yaml of the checkpoint."),
    ):
        call = option(call)
    return call


def _choice(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say who takes part, handed over as one."""

    @wraps(command)
    def call(
        backends: tuple[str, ...], precisions: tuple[str, ...], threads: int | None, device: str, batch: int,
        compiled: bool, **others: Any,
    ) -> None:  # fmt: skip
        from rofo.benchmarks.contestants import Choice

        choice = Choice(_at_most_all(threads), backends, precisions, device, batch, compiled)
        command(choice=choice, **others)

    for option in (
        click.option(
            "--compile/--no-compile", "compiled", default=True, help="torch.compile takes minutes to start."
        ),
        click.option(
            "--batch", type=click.IntRange(1), default=1, show_default=True, help="Chunks at once."
        ),
        click.option(
            "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True,
            help="Where PyTorch computes, and whose backends take part.",
        ),
        _threads,
        click.option("--precision", "precisions", type=_PRECISION, multiple=True, help=_ONLY),
        click.option("--backend", "backends", type=_BACKEND, multiple=True, help=_ONLY),
    ):  # fmt: skip
        call = option(call)
    return call


class _SpreadStems(click.Command):
    """`--stems A B C` as `--stems A --stems B --stems C`, which is what click knows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's own, of the arguments spread out."""
        return super().parse_args(ctx, spread_values(args, "--stems"))


def spread_values(args: list[str], option: str) -> list[str]:
    """Every value after `option`, up to the next option, with `option` before it."""
    spread: list[str] = []
    values: int | None = None
    for arg in args:
        if arg.startswith("-"):
            values = 0 if arg == option else None
        elif values is not None:
            spread += [option] if values else []
            values += 1
        spread.append(arg)
    return spread


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="rofo")
def bench() -> None:
    """Measure engines against PyTorch and other tools, and show what came out."""


@bench.command(context_settings=_CONTEXT)
@click.argument("target", metavar="ENGINE|CHECKPOINT|RECIPE", type=_FILE)
@_told
@_choice
@_rounds
@click.option(
    "--chunks", type=click.IntRange(1), default=4, show_default=True, help="Length of the song, in chunks."
)
@_results
def speed(target: Path, told: "Told", choice: "Choice", rounds: int, chunks: int, results: Path) -> None:
    """Throughput, load time, memory, and where the time goes.

    Of a CHECKPOINT, against PyTorch and other tools that are installed; of an ENGINE too, where its
    checkpoint lies beside it. Engines in int8 and fp8 are made only where --precision names them. A RECIPE
    is compared with itself on PyTorch networks, made of the checkpoints beside its engines, and with its
    runs one by one.
    """
    from rofo.benchmarks.speed import measure_speed

    finish(measure_speed(target, told, choice, rounds=rounds, chunks=chunks, say=note), results, choice)


@bench.command(cls=_SpreadStems, context_settings=_CONTEXT)
@click.argument("checkpoint", metavar="ENGINE|CHECKPOINT|RECIPE", type=_FILE)
@click.option("--mix", required=True, type=_FILE, help="Song at the model's sample rate.")
@click.option(
    "--stems",
    "truths",
    multiple=True,
    metavar="[NAME=]FILE...",
    help="True stems of the mix, in the order of the model's, the residual last; or by name.",
)
@_told
@_choice
@_results
def parity(
    checkpoint: Path, mix: Path, truths: tuple[str, ...], told: "Told", choice: "Choice", results: Path
) -> None:
    """How far engines are from PyTorch, in dB, on a spectrogram and a song; with --stems also in SDR."""
    from rofo.benchmarks.parity import measure_parity

    finish(measure_parity(checkpoint, told, mix, truths, choice, say=note), results, choice)


@bench.command(context_settings=_CONTEXT)
@click.argument("target", metavar="ENGINE|CHECKPOINT", type=_FILE)
@_told
@_threads
@click.option("--backend", type=_BACKEND, help="Default: the first that can run.")
@click.option("--precision", type=_PRECISION, help="Default: what the engine's parity allows.")
@_rounds
@click.option(
    "--seconds", default="10,60,600,3600", show_default=True, metavar="N,N", help="Lengths of songs."
)
@click.option("--batches", default="1,2,4", show_default=True, metavar="N,N", help="Chunks at once.")
@click.option("--thread-counts", metavar="N,N", help="Default: 1, 2, 4, ... up to all cores.")
@click.option(
    "--most",
    type=click.FloatRange(0, min_open=True),
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="Leave out what would take longer.",
)
@_results
def scale(
    target: Path, told: "Told", threads: int | None, backend: str | None, precision: str | None, rounds: int,
    seconds: str, batches: str, thread_counts: str | None, most: float, results: Path,
) -> None:  # fmt: skip
    """How time and memory grow with the song's length, the stems written, the batch and the threads."""
    from rofo.benchmarks.contestants import Choice
    from rofo.benchmarks.scale import Values, measure_scale

    backends, precisions = (() if name is None else (name,) for name in (backend, precision))
    choice = Choice(_at_most_all(threads), backends, precisions)
    counts = _whole("--thread-counts", thread_counts) if thread_counts else _doubling(choice.threads)
    values = Values(_numbers("--seconds", seconds), _whole("--batches", batches), counts, most)
    finish(measure_scale(target, told, choice, values, rounds=rounds, say=note), results, choice)


@bench.command(context_settings=_CONTEXT)
@click.argument("geometry", type=click.Choice(["viperx", "kim"]))
@_rounds
@click.option(
    "--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="Length of the song."
)
@click.option("--thread-counts", metavar="N,N", help="Default: 1, 2, 4, ... up to all cores.")
@_results
def host(geometry: str, rounds: int, seconds: float, thread_counts: str | None, results: Path) -> None:
    """What all but the engine allows, with one that costs nothing, for the transform of a public model."""
    from rofo.benchmarks.contestants import Choice
    from rofo.benchmarks.host import measure_host
    from rofo.threads import cores

    counts = _whole("--thread-counts", thread_counts) if thread_counts else _doubling(cores())
    measured = measure_host(geometry, counts, seconds, rounds=rounds, say=note)
    finish(measured, results, Choice(max(counts)))


@bench.command(context_settings=_CONTEXT)
@_results
def report(results: Path) -> None:
    """Write report.html, report.md and report.json from the results of all runs."""
    from rofo.benchmarks.report import write_report

    for file in write_report(results):
        click.echo(file)


@bench.command(context_settings=_CONTEXT)
@click.argument("name")
@click.argument("folder", type=_FILE)
def shape(name: str, folder: Path) -> None:
    """Write a seeded checkpoint of a public shape into FOLDER. NAMEs: viperx, small, mdx23c, kim, htdemucs,
    hdemucs, demucs, scnet, scnet_xl, scnet_tran, bsrnn, bsrnn_attention.

    Speed and memory do not depend on what the weights are.
    """
    from rofo.benchmarks.shapes import write_shape

    for file in filter(None, write_shape(name, folder)):
        click.echo(file)


main = command_line(bench)


def finish(result: "Result", folder: Path, choice: "Choice") -> None:
    """The table on standard output, the file's name on standard error."""
    from rofo.benchmarks.document import to_markdown
    from rofo.benchmarks.results import save
    from rofo.benchmarks.tables import section

    gpu = result.about.machine.gpu if "cuda" in choice.devices else None
    note(f"{save(result, folder, on=gpu)}: written")
    click.echo(to_markdown([section(result)]))


def _at_most_all(threads: int | None) -> int:
    """As many threads as were asked for and there are cores."""
    from rofo.threads import cores

    return min(threads or cores(), cores())


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(0 < number < float("inf") for number in numbers):
        raise click.UsageError(f"{option} is {text!r}; give numbers above 0, such as 1,2")
    return numbers


def _whole(option: str, text: str) -> tuple[int, ...]:
    numbers = _numbers(option, text)
    if any(number != int(number) for number in numbers):
        raise click.UsageError(f"{option} is {text!r}; give whole numbers, such as 1,2")
    return tuple(int(number) for number in numbers)


def _doubling(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and at last `most` itself."""
    return tuple(sorted({*(1 << n for n in range(most.bit_length())), most}))
