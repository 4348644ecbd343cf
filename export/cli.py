"""rofo-export: a checkpoint becomes an engine and its manifest."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rofo.console import command_line, note
from rofo.dsp import SCHEMES

if TYPE_CHECKING:
    from rofo.export.plan.plan import PlanOptions

# Names of rofo.export.plan.gpus.GPUS and rofo.export.graph.types.DTYPES: --help is not to load torch.
_GPUS = ("rtx4090", "rtx3090", "rtx5090", "portable")
_PRECISIONS = ("fp32", "fp16", "bf16")


@command_line
@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--config", type=click.Path(path_type=Path), help="MSST yaml of the checkpoint.")
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
@click.option("--no-verify", is_flag=True, help="Skip the comparison of engine and network.")
@click.option("--sha256", metavar="HEX", help="Refuse the checkpoint unless this is its sha256.")
@click.option(
    "--unsafe-pickle", is_flag=True, help="Run code stored in the checkpoint; only if you trust it."
)
@click.version_option(package_name="rofo")
def main(
    checkpoint: Path,
    config: Path | None,
    output: Path | None,
    targets: tuple[str, ...],
    precision: str,
    quantize: str | None,
    calibrate: tuple[Path, ...],
    attention: str | None,
    gpu: str | None,
    batch: int | None,
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
    no_verify: bool,
    sha256: str | None,
    unsafe_pickle: bool,
) -> None:
    """Turn CHECKPOINT into STEM.onnx, STEM.plan and STEM.json.

    It is a file of weights (.ckpt, .pt, .pth, .th, .safetensors), or the .onnx file of an MDX-Net.
    Of a recipe (.toml) it is checked what it says, and which of its engines are there.

    The engines are compared with the network before anything is written.
    """
    if checkpoint.suffix == ".toml":
        _check_recipe(checkpoint)
        return
    from rofo.export.export import ExportOptions, export_checkpoint, facts_report

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
        config=config,
        given={name: value for name, value in given.items() if value is not None},
        members=members,
        batch=batch or 1,
        onnx="onnx" in targets,
        cuda="onnxruntime-cuda" in targets,
        plan=None if only_facts else _plan(targets, precision, attention, gpu, batch, diagnose=diagnose),
        int8=quantize == "int8",
        calibrate=calibrate,
        verify=not no_verify,
        sha256=sha256,
        unsafe_pickle=unsafe_pickle,
    )
    if only_facts:
        click.echo(facts_report(checkpoint, options))
        return
    report = export_checkpoint(checkpoint, options, note)
    for parity in report.parity:
        where = "" if parity.measured_on == "engine" else f" ({parity.measured_on})"
        note(f"{parity.backend} {parity.precision}: {parity.snr_db:.1f} dB from the network{where}")
    if no_verify:
        note("not verified: --no-verify")
    for file in report.files:
        click.echo(file)


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
