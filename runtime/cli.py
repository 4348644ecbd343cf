"""rofo-run: songs in, stems out."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rofo.console import command_line, debugging, note, one_heap, tell
from rofo.dsp import SCHEMES
from rofo.engines import BACKEND_NAMES
from rofo.errors import UsageError
from rofo.manifest import PRECISIONS
from rofo.text import one_line, printable

if TYPE_CHECKING:
    from rofo.options import Options
    from rofo.results import Progress
    from rofo.separator import Separator

SOME_FAILED = 7


@command_line
@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--engine",
    required=True,
    type=click.Path(path_type=Path),
    help="Engine made by rofo-export, or the .json of one or of a mixer, or a recipe (.toml).",
)
@click.option(
    "--output",
    default="separated",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Stems go to DIR/<track>/<stem>.<ext>.",
)
@click.option("--stem", "stems", multiple=True, metavar="NAME", help="Only this stem; may be repeated.")
@click.option("--no-residual", is_flag=True, help="Do not write the mix less all stems.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="FRACTION",
    help="Part of a chunk (outer: of a slice) shared with the next one; more is smoother and slower; trim "
    "has none. Default: the engine's; that of another --scheme is its own.",
)
@click.option(
    "--scheme",
    type=click.Choice(SCHEMES),
    help=f"How chunks are joined: {'; '.join(f'{name}, {s.summary}' for name, s in SCHEMES.items())}. "
    "Default: the engine's.",
)
@click.option(
    "--shifts",
    type=click.IntRange(0, 100),
    default=0,
    metavar="N",
    help="Average N passes, each shifted by up to half a second; smoother and N times slower. Demucs only.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", *BACKEND_NAMES]),
    default="auto",
    show_default=True,
    help="What runs the engine; auto takes the first that can.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
    help="auto takes int8 or bf16 where the processor has it and the engine's measured parity allows it; "
    "a .plan has the precision it was built with.",
)
@click.option(
    "--low-memory", is_flag=True, help="Of a recipe, have one engine in memory at a time; stems are the same."
)
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: all cores.")
@click.option("--format", "container", type=click.Choice(["wav", "flac"]), help="Default: the input's.")
@click.option(
    "--subtype",
    type=click.Choice(["PCM_16", "PCM_24", "FLOAT"], case_sensitive=False),
    help="Sample format; default: the input's.",
)
@click.option("--channels", metavar="N[,N]", help="Take these channels, from 0, of a file with many.")
@click.option("--allow-truncated", is_flag=True, help="Take what is there of a file that was cut short.")
@click.option("--sanitize", is_flag=True, help="Set samples that are not finite to 0 instead of refusing.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(0, min_open=True),
    default=180,
    show_default=True,
    help="Refuse longer files.",
)
@click.option("--resume", is_flag=True, help="Skip songs whose stems are there, of this engine and options.")
@click.option(
    "--plan-memory",
    is_flag=True,
    help="Run the engine on noise, tell the bytes that it takes, and separate nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per song on standard output.")
@click.version_option(package_name="rofo")
def main(
    inputs: tuple[Path, ...],
    engine: Path,
    output: Path,
    stems: tuple[str, ...],
    no_residual: bool,
    channels: str | None,
    as_json: bool,
    backend: str,
    precision: str,
    threads: int | None,
    low_memory: bool,
    plan_memory: bool,
    **chosen: Any,
) -> int:
    """Separate INPUTS, audio files or folders of them, into stems."""
    from rofo.audio.files import list_inputs
    from rofo.options import Options
    from rofo.separator import Separator

    one_heap()
    if plan_memory:
        from rofo import memory

        how: dict[str, Any] = {
            "backend": backend,
            "precision": precision,
            "threads": threads,
            "low_memory": low_memory,
        }
        plan = memory.plan_memory(partial(Separator, engine, **how))
        click.echo(json.dumps(asdict(plan)) if as_json else plan)
        return 0
    if not inputs:
        raise click.UsageError("Missing argument 'INPUTS...'.")
    files = list_inputs(inputs)
    options = Options(stems=stems or None, channels=_numbers(channels), **chosen)
    with Separator(
        engine, backend=backend, precision=precision, threads=threads, low_memory=low_memory
    ) as separator:
        note(f"{engine.name}: {separator.backend}, {separator.precision}")
        wanted = separator.check(options)
        if no_residual:
            wanted = tuple(stem for stem in wanted if stem != separator.manifest.residual)
            if not wanted:
                raise UsageError(
                    "--stem asks for the residual, --no-residual leaves it out; drop one of them"
                )
        run = _Run(separator, output, replace(options, stems=wanted), as_json, debugging())
        return _exit_code([run.separate(file) for file in files])


@dataclass(frozen=True)
class _Run:
    """How every song of this call is separated and reported."""

    separator: "Separator"
    output: Path
    options: "Options"
    as_json: bool
    debug: bool

    def separate(self, file: Path) -> int:
        """Separate one song and report it; the exit code it alone would have."""
        try:
            options = replace(self.options, progress=_progress_line(file))
            result = self.separator.separate_file(file, self.output, options)
        except Exception as error:  # noqa: BLE001 - one song must not stop the others
            code = tell(error, debug=self.debug)
            self._report(file, "failed", error=one_line(error), exit_code=code)
            return code
        if result.skipped:
            note(f"{file}: skipped, its stems are there")
            self._report(file, "skipped", stems=result)
            return 0
        for warning in result.warnings:
            note(f"{file}: {warning}")
        speed = result.seconds / result.elapsed if result.elapsed else 0.0
        note(f"{file}: {result.seconds:.1f} s of audio in {result.elapsed:.1f} s, {speed:.2f} x real time")
        self._report(
            file,
            "done",
            stems=result,
            seconds=result.seconds,
            elapsed=result.elapsed,
            speed=speed,
            engines=result.engines,
            silent=result.silent,
            warnings=list(result.warnings),
        )
        return 0

    def _report(self, file: Path, status: str, stems: dict[str, Path] | None = None, **facts: Any) -> None:
        paths = {stem: str(path) for stem, path in (stems or {}).items()}
        if self.as_json:
            engine = {"backend": self.separator.backend, "precision": self.separator.precision}
            click.echo(json.dumps({"input": str(file), "status": status, "stems": paths, **facts, **engine}))
        else:
            for path in paths.values():
                click.echo(os.fsencode(path))  # names need not be text


def _numbers(channels: str | None) -> list[int] | None:
    if channels is None:
        return None
    try:
        return [int(number) for number in channels.split(",")]
    except ValueError:
        raise UsageError(f"--channels is {channels!r}; give numbers from 0, such as 0,1") from None


def _exit_code(codes: list[int]) -> int:
    """A single song's own code; of several, 7 when any failed."""
    return codes[0] if len(codes) == 1 else SOME_FAILED * any(codes)


def _progress_line(file: Path) -> "Callable[[Progress], None] | None":
    """A callback that rewrites one line on a terminal; None where stderr is not one."""
    if not sys.stderr.isatty():
        return None

    def show(progress: "Progress") -> None:
        share = f"{progress.done / progress.total:4.0%}" if progress.total else ""
        left = progress.remaining or 0.0
        line = f"{printable(file.name)} {share} {progress.speed:.2f} x real time, {_clock(left)} left"
        end = "\n" if progress.total and progress.done >= progress.total else ""
        click.echo(f"\r{line:<78}{end}", err=True, nl=False)

    return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
