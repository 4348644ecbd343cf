"""rofo-run: songs in, stems out."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rofo.console import (
    SectionedCommand,
    command_line,
    debugging,
    note,
    one_heap,
    talkative,
    tell,
    verbose_option,
)
from rofo.dsp import SCHEMES
from rofo.engines import BACKEND_NAMES
from rofo.errors import RofoError, UsageError
from rofo.manifest import PRECISIONS
from rofo.terminal import StatusLine, progress_text
from rofo.text import one_line

if TYPE_CHECKING:
    from rofo.options import Options
    from rofo.report.page import Report
    from rofo.separator import Separator
    from rofo.song_rows import SongRow

SOME_FAILED = 7
_SECTIONS = {  # of --help, by the names of the parameters; what is not named comes last
    "What is needed first": ("engine", "output", "stems", "container", "backend"),
    "Sound": ("overlap", "scheme", "shifts", "no_residual"),
    "Machine": ("precision", "threads", "low_memory", "plan_memory"),
    "Songs": ("report", "channels", "subtype", "allow_truncated", "sanitize", "max_minutes"),
    "Many songs": ("resume", "song_list", "shard", "as_json"),
}


def _stems_of_engine(ctx: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """For the shell to complete: the stems of the engine that was named before, none where there is none."""
    from rofo.engines.folder import describe, stems_of

    try:
        stems = stems_of(describe(ctx.params["engine"]))
    except (RofoError, KeyError, AttributeError):
        return []
    return [stem for stem in stems if stem.lower().startswith(begun.lower())]


@command_line
@click.command(
    cls=SectionedCommand, sections=_SECTIONS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--engine",
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
@click.option(
    "--stem",
    "stems",
    multiple=True,
    metavar="NAME",
    shell_complete=_stems_of_engine,
    help="Only this stem; may be repeated.",
)
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
    "--list",
    "song_list",
    type=click.Path(path_type=Path),
    metavar="SONGS.jsonl",
    help='Instead of INPUTS, a line {"id": ..., "path": ...} for each. What is missing or changed is done; '
    "stems go to DIR/<id>/, what became of each song to DIR/results.jsonl.",
)
@click.option("--shard", metavar="I/N", help="Of a --list, the I-th of N parts.")
@click.option(
    "--report",
    "report",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a page with spectra, levels and players of every song; sound files stay where they are.",
)
@click.option(
    "--plan-memory",
    is_flag=True,
    help="Run the engine on noise, tell the bytes that it takes, and separate nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per song on standard output.")
@verbose_option
@click.version_option(package_name="rofo")
def main(
    inputs: tuple[Path, ...],
    engine: Path | None,
    output: Path,
    stems: tuple[str, ...],
    no_residual: bool,
    channels: str | None,
    report: Path | None,
    as_json: bool,
    backend: str,
    precision: str,
    threads: int | None,
    low_memory: bool,
    song_list: Path | None,
    shard: str | None,
    plan_memory: bool,
    **chosen: Any,
) -> int:
    """Separate INPUTS, audio files or folders of them, into stems."""
    if engine is None:
        raise click.UsageError(_no_engine(Path()))
    from rofo.audio.files import list_inputs
    from rofo.options import Options
    from rofo.report.page import Report, check_place
    from rofo.separator import Separator
    from rofo.song_list import read_list, read_shard, separate_list

    one_heap(large_apart=engine.suffix == ".toml")
    opened = partial(
        Separator, engine, backend=backend, precision=precision, threads=threads, low_memory=low_memory
    )
    if plan_memory:
        return _tell_memory(opened, as_json=as_json)
    if (song_list is None) != bool(inputs) or (shard and not song_list):
        raise click.UsageError(
            "No songs, or twice; give files and folders, or --list, of which --shard is a part."
        )
    if report is not None:
        if song_list:
            raise click.UsageError("A --list has no --report; see its rows in DIR/results.jsonl.")
        check_place(report)
    files, songs, part = list_inputs(inputs), read_list(song_list) if song_list else None, read_shard(shard)
    options = Options(stems=stems or None, channels=_numbers(channels), **chosen)
    with opened() as separator:
        note(f"{engine.name}: {separator.backend}, {separator.device}, {separator.precision}")
        wanted = separator.check(options)
        if no_residual:
            wanted = tuple(stem for stem in wanted if stem != separator.manifest.residual)
            if not wanted:
                raise UsageError(
                    "--stem asks for the residual, --no-residual leaves it out; drop one of them"
                )
        options = replace(options, stems=wanted)
        if songs is not None:
            return _tell_list(separate_list(separator, songs, output, options, part), as_json=as_json)
        page = Report(report, separator, options) if report else None
        run = _Run(separator, output, options, as_json, debugging(), page)
        codes = [run.separate(file, f"[{k}/{len(files)}]") for k, file in enumerate(files, 1)]
        if page is not None:
            page.write()
            note(f"{report}: written")
        return _exit_code(codes)


@dataclass(frozen=True)
class _Run:
    """How every song of this call is separated and reported."""

    separator: "Separator"
    output: Path
    options: "Options"
    as_json: bool
    debug: bool
    page: "Report | None"

    def separate(self, file: Path, place: str) -> int:
        """Separate one song, `place` of all, and report it; the exit code it alone would have."""
        try:
            with StatusLine() as line:
                line.show(f"{place} {progress_text(file.name, None)}")
                options = replace(
                    self.options,
                    progress=lambda progress: line.show(f"{place} {progress_text(file.name, progress)}"),
                )
                result = self.separator.separate_file(file, self.output, options)
                if self.page is not None:
                    line.show(f"{place} {file.name}: looking at its stems")
                    self.page.add(file, result)
        except Exception as error:  # noqa: BLE001 - one song must not stop the others
            code = tell(error, debug=self.debug)
            self._report(file, "failed", error=one_line(error), exit_code=code)
            return code
        for warning in result.warnings:
            note(f"{file}: {warning}")
        if result.skipped:
            if talkative():
                note(f"{place} {file}: skipped, its stems are there")
            self._report(file, "skipped", stems=result)
            return 0
        speed = result.seconds / result.elapsed if result.elapsed else 0.0
        if talkative():
            took = f"{result.seconds:.1f} s of audio in {result.elapsed:.1f} s, {speed:.2f} x real time"
            note(f"{place} {file}: {took}")
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
            engine = {name: getattr(self.separator, name) for name in ("backend", "device", "precision")}
            click.echo(json.dumps({"input": str(file), "status": status, "stems": paths, **facts, **engine}))
        else:
            for path in paths.values():
                click.echo(os.fsencode(path))  # names need not be text


def _tell_memory(opened: "Callable[[], Separator]", *, as_json: bool) -> int:
    from rofo import memory

    plan = memory.plan_memory(opened)
    click.echo(json.dumps(asdict(plan)) if as_json else plan)
    return 0


def _tell_list(rows: "Iterator[SongRow]", *, as_json: bool) -> int:
    """Report the songs of a list as they end, those that were done before only as a number; the exit code."""
    count = Counter[str]()
    for row in rows:
        count[row.status] += 1
        if row.status == "failed":
            note(f"error: {row.error}")
        elif row.status == "done" and talkative():
            note(f"{row.id}: {row.seconds:.1f} s of audio in {row.elapsed:.1f} s")
        for warning in row.warnings:
            note(f"{row.id}: {warning}")
        if as_json:
            click.echo(row.to_json())
    note(f"{count['done']:,} done, {count['failed']:,} failed, {count['skipped']:,} were done before")
    return SOME_FAILED if count["failed"] else 0


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


def _no_engine(folder: Path) -> str:
    """What to say to a call without an engine: those that lie in the folder; none is taken unasked."""
    from rofo.engines.folder import engines_in

    found = [
        f"  --engine {file}  ({', '.join(one.stems)})" for one in engines_in(folder) for file in one.files
    ]
    if not found:
        return "no --engine is given, and none lies in this folder; make one with rofo-export CHECKPOINT"
    return "\n".join(["no --engine is given; in this folder lie", *found])
