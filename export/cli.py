"""rofo-export: a checkpoint becomes an engine and its manifest."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from rofo.console import SectionedCommand, command_line, note, verbose, verbose_option
from rofo.dsp import SCHEMES
from rofo.errors import UsageError
from rofo.export.catalogue import described, list_downloads
from rofo.terminal import StatusLine

if TYPE_CHECKING:
    from rofo.export.plan.plan import PlanOptions

# Names of rofo.export.plan.gpus.GPUS and rofo.export.graph.types.DTYPES: --help is not to load torch.
_GPUS = ("rtx4090", "rtx3090", "rtx5090", "portable")
_PRECISIONS = ("fp32", "fp16", "bf16")
_ENGINES = (".json", ".plan", ".toml")  # what --triton takes as it is: an .onnx may be a checkpoint
_SECTIONS = {  # of --help, by the names of the parameters; what is not named comes last
    "What is needed first": ("config", "output", "targets", "gpu", "precision"),
    "Engines": ("quantize", "calibrate", "truths", "attention", "batch", "scheme", "members"),
    "What the checkpoint does not say": (
        "stems", "chunk", "sample_rate", "n_fft", "hop_length", "compensate", "zero_dc", "skip_connection",
        "normalize", "rotary",
    ),
    "Serving": ("triton",),
    "Trust": ("sha256", "unsafe_pickle", "no_verify"),
}  # fmt: skip


def complete_checkpoint(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """Files, and names of the catalogue."""
    names = [download.name for _, download in list_downloads()]
    found = [CompletionItem(name) for name in names if begun and name.lower().startswith(begun.lower())]
    return [CompletionItem(begun, type="file"), *found]


@command_line
@click.command(
    cls=SectionedCommand, sections=_SECTIONS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("checkpoint", required=False, shell_complete=complete_checkpoint)
@click.option("--config", metavar="FILE", help="MSST yaml of the checkpoint; a file, or an hf:// link.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="STEM",
    help="Path of the results without suffix; by default the checkpoint's own.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(["onnx", "onnxruntime-cuda", "tensorrt-rtx", "tensorrt"]),
    help="What to write; may be repeated. onnxruntime-cuda is STEM.fp16.onnx. Default: onnx, and "
    "tensorrt-rtx where its builder is installed.",
)
@click.option(
    "--precision",
    type=click.Choice((*_PRECISIONS, "fp8")),
    default="fp16",
    show_default=True,
    help="Matrix products of the plan; the ONNX file is fp32. fp8 is written as STEM.fp8.plan.",
)
@click.option(
    "--quantize",
    type=click.Choice(["int8"]),
    help="Write an int8 engine for processors as well, beside the fp32 one.",
)
@click.option(
    "--calibrate",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="AUDIO",
    help="Music that int8 and fp8 are calibrated on; may be repeated. Default: a mix that comes with rofo.",
)
@click.option(
    "--truth",
    "truths",
    multiple=True,
    metavar="STEM=AUDIO",
    help="True stem of the first --calibrate, of whose SDR int8 may lose 0.05 dB; may be repeated.",
)
@click.option("--attention", type=click.Choice(_PRECISIONS), help="Attention of the plan, if not the same.")
@click.option(
    "--gpu",
    type=click.Choice(_GPUS),
    help="Card the plan is for. Default: rtx4090; for tensorrt the one in this machine.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    help="Chunks per engine run. Default: 1 for ONNX; for a plan as many as fill the card.",
)
@click.option(
    "--list",
    "listed",
    is_flag=True,
    help="List the checkpoints known by name, or those with a word, and stop.",
)
@click.option(
    "--facts", "only_facts", is_flag=True, help="Print what is known of CHECKPOINT and who says it, and stop."
)
@click.option("--diagnose", is_flag=True, help="Tell how far every layer of the plan's graph is from fp32.")
@click.option("--chunk", type=float, metavar="SECONDS", help="Length of a chunk, instead of the yaml's.")
@click.option("--hop-length", type=click.IntRange(1), metavar="SAMPLES", help="Hop of the STFT.")
@click.option(
    "--n-fft", type=click.IntRange(2), metavar="SAMPLES", help="Length of the STFT's frames (MDX-Net)."
)
@click.option("--sample-rate", type=click.IntRange(8000), metavar="HZ", help="Rate the model was trained at.")
@click.option("--stems", "--stem", metavar="NAME,NAME", help="Names of the network's outputs, in order.")
@click.option(
    "--compensate",
    type=float,
    metavar="GAIN",
    help="Gain of the stems, as UVR applies to MDX-Net; 1 switches it off. Default: the catalogue's.",
)
@click.option(
    "--scheme",
    type=click.Choice(list(SCHEMES)),
    help="How chunks are cut and joined by default; `trim` and `outer` also leave out what only UVR does "
    "to MDX-Net, the gain and the three silent lowest bins.",
)
@click.option(
    "--member",
    "members",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="ENGINE",
    help="For a mixer of MDX-Net stems: the engine of one stem, already exported; repeat for each.",
)
@click.option("--zero-dc/--no-zero-dc", default=None, help="Whether the network drops bin 0.")
@click.option(
    "--skip-connection/--no-skip-connection", default=None, help="Whether layers see all earlier ones."
)
@click.option("--normalize/--no-normalize", default=None, help="Whether songs are levelled before.")
@click.option(
    "--rotary",
    type=click.Choice(["exact", "amp-0.3.5"]),
    help="Rotary angles: exact (default), or rounded as rotary-embedding-torch 0.3.5 does under autocast.",
)
@click.option(
    "--triton",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write a Triton model repository as well. Of an engine that is there already, give its .json, its "
    ".plan, or a recipe as CHECKPOINT, and say --target for the kind of engine.",
)
@click.option("--no-verify", is_flag=True, help="Skip the comparison of engine and network.")
@click.option("--sha256", metavar="HEX", help="Refuse the checkpoint unless this is its sha256.")
@click.option(
    "--unsafe-pickle", is_flag=True, help="Run code stored in the checkpoint; only if you trust it."
)
@verbose_option
@click.version_option(package_name="rofo")
def main(
    checkpoint: str | None,
    config: str | None,
    output: Path | None,
    targets: tuple[str, ...],
    precision: str,
    quantize: str | None,
    calibrate: tuple[Path, ...],
    truths: tuple[str, ...],
    attention: str | None,
    gpu: str | None,
    batch: int | None,
    listed: bool,
    only_facts: bool,
    diagnose: bool,
    chunk: float | None,
    hop_length: int | None,
    n_fft: int | None,
    sample_rate: int | None,
    stems: str | None,
    compensate: float | None,
    scheme: str | None,
    members: tuple[Path, ...],
    zero_dc: bool | None,
    skip_connection: bool | None,
    normalize: bool | None,
    rotary: str | None,
    triton: Path | None,
    no_verify: bool,
    sha256: str | None,
    unsafe_pickle: bool,
) -> None:
    """Turn CHECKPOINT into STEM.onnx, STEM.plan and STEM.json.

    It is a file of weights (.ckpt, .pt, .pth, .th, .safetensors), or the .onnx file of an MDX-Net; or a name
    of the catalogue (see --list), or hf://owner/repo@revision/file, which is downloaded with its yaml.
    Of a recipe (.toml) it is checked what it says, and which of its engines are there.

    The engines are compared with the network before anything is written.
    """
    if listed:
        click.echo(_listed(checkpoint or ""))
        return
    if checkpoint is None:
        raise click.UsageError("No checkpoint; give a file, or a name that --list shows.")
    if triton is not None and checkpoint.endswith(_ENGINES):
        _write_repository(Path(checkpoint), triton, targets)
        return
    if checkpoint.endswith(".toml"):
        _check_recipe(Path(checkpoint))
        return
    try:
        from rofo.export.export import ExportOptions, export_checkpoint, facts_report
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'rofo[export]'") from None
    source, yaml, name = _at_hand(checkpoint, config)
    output = output or name
    given = {
        "hop_length": hop_length,
        "n_fft": n_fft,
        "sample_rate": sample_rate,
        "chunk_seconds": chunk,
        "stems": tuple(name.strip() for name in stems.split(",")) if stems else None,
        "compensate": compensate,
        "scheme": scheme,
        "zero_dc": zero_dc,
        "skip_connection": skip_connection,
        "normalize": normalize,
        "rotary": rotary,
    }
    targets = targets or ("onnx", *(["tensorrt-rtx"] if find_spec("tensorrt_rtx") else []))
    options = ExportOptions(
        output=output,
        config=yaml,
        given={name: value for name, value in given.items() if value is not None},
        members=members,
        batch=batch or 1,
        onnx="onnx" in targets,
        cuda="onnxruntime-cuda" in targets,
        plan=None if only_facts else _plan(targets, precision, attention, gpu, batch, diagnose=diagnose),
        int8=quantize == "int8",
        calibrate=calibrate,
        truths=_truths(truths),
        verify=not no_verify,
        sha256=sha256,
        unsafe_pickle=unsafe_pickle,
    )
    if only_facts:
        click.echo(facts_report(source, options))
        return
    with StatusLine() as line:  # a diagnosis is told layer by layer, as it may end in an error
        report = export_checkpoint(source, options, note if verbose() or diagnose else line.show)
    for parity in report.parity:
        where = "" if parity.measured_on == "engine" else f" ({parity.measured_on})"
        note(f"{parity.backend} {parity.precision}: {parity.snr_db:.1f} dB from the network{where}")
    if no_verify:
        note("not verified: --no-verify")
    for file in report.files:
        click.echo(file)
    if triton is not None:
        made = [target for target in ("tensorrt", "tensorrt-rtx", "onnx") if target in targets]
        _write_repository(report.files[-1], triton, made[:1])


def _truths(given: Sequence[str]) -> dict[str, Path]:
    pairs = [one.partition("=") for one in given]
    if not all(name and file for name, _, file in pairs):
        raise click.UsageError(
            "--truth names a stem and its file; give STEM=AUDIO, such as vocals=vocals.wav"
        )
    return {name: Path(file) for name, _, file in pairs}


def _write_repository(engine: Path, folder: Path, kinds: Sequence[str]) -> None:
    from rofo.export.triton import write_repository

    for model in write_repository(engine, folder, kinds):
        click.echo(model)


def _at_hand(checkpoint: str, config: str | None) -> tuple[Path, Path | None, Path | None]:
    """The files of checkpoint and yaml; downloaded where the first is no path, but a name or a link.

    Last the name for its engines in this case: the file itself lies in a cache.
    """
    from rofo.export.hub import SCHEME, fetch_checkpoint

    yaml = Path(config) if config else None
    if config and config.startswith(SCHEME):
        yaml = fetch_checkpoint(config, note).checkpoint
    path = Path(checkpoint)
    if not checkpoint.startswith(SCHEME) and (path.is_file() or len(path.parts) > 1):
        return path, yaml, None
    fetched = fetch_checkpoint(checkpoint, note)
    return fetched.checkpoint, yaml or fetched.config, Path(fetched.name)


def _listed(word: str) -> str:
    """The catalogue as a table, one line a file."""
    rows = [described(*found) for found in list_downloads(word)]
    if not rows:
        raise click.UsageError(f"no checkpoint of the catalogue has {word!r}; see rofo-export --list")
    table = [("name", "network", "stems (SDR on Multisong, dB)", "size", "licence"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)


def _check_recipe(path: Path) -> None:
    """Print the engines of a recipe: those that are there, and the commands that make the others.

    Raises RecipeError with all that is wrong.
    """
    from rofo.recipes.read import list_engines, read_recipe

    for engine in list_engines(path):
        click.echo(f"{engine.path}: there" if engine.there else engine.command)
    recipe = read_recipe(path)
    note(f"{path}: {', '.join(recipe.stems)} at {recipe.sample_rate} Hz")


def _plan(
    targets: Sequence[str], precision: str, attention: str | None, gpu: str | None, batch: int | None,
    *, diagnose: bool,
) -> "PlanOptions | None":  # fmt: skip
    """The plan among the targets; a usage error for two plans, which would have one name."""
    from rofo.export.plan.plan import PlanOptions

    plans = sorted(set(targets) - {"onnx", "onnxruntime-cuda"})
    if len(plans) > 1:
        raise click.UsageError(f"{' and '.join(plans)} would both write STEM.plan; export them one by one")
    if not plans:
        return None
    return PlanOptions(plans[0], precision, attention, gpu, batch, diagnose)  # type: ignore[arg-type]
