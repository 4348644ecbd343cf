"""rofo-export: a checkpoint becomes an engine and its manifest."""

from pathlib import Path

import click

from rofo.console import command_line, note


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
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Chunks per engine run.")
@click.option("--chunk", type=float, metavar="SECONDS", help="Length of a chunk, instead of the yaml's.")
@click.option("--hop-length", type=click.IntRange(1), metavar="SAMPLES", help="Hop of the STFT.")
@click.option("--sample-rate", type=click.IntRange(8000), metavar="HZ", help="Rate the model was trained at.")
@click.option("--stems", metavar="NAME,NAME", help="Names of the network's outputs, in order.")
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
    batch: int,
    chunk: float | None,
    hop_length: int | None,
    sample_rate: int | None,
    stems: str | None,
    zero_dc: bool | None,
    skip_connection: bool | None,
    normalize: bool | None,
    rotary: str | None,
    no_verify: bool,
    sha256: str | None,
    unsafe_pickle: bool,
) -> None:
    """Turn CHECKPOINT (.ckpt, .pt, .pth, .th, .safetensors) into STEM.onnx and STEM.json.

    The engine is compared with the network before anything is written.
    """
    from rofo.export.config import Facts
    from rofo.export.exporter import export

    names = tuple(name.strip() for name in stems.split(",")) if stems else None
    facts = Facts(
        hop_length=hop_length,
        sample_rate=sample_rate,
        chunk=chunk,
        stems=names,
        zero_dc=zero_dc,
        skip_connection=skip_connection,
        normalize=normalize,
        rotary=rotary,  # type: ignore[arg-type]
    )
    report = export(
        checkpoint,
        config=config,
        output=output,
        facts=facts,
        batch=batch,
        check=not no_verify,
        sha256=sha256,
        unsafe_pickle=unsafe_pickle,
        stage=note,
    )
    for parity in report.manifest.parity:
        note(f"{parity.backend} {parity.precision}: {parity.snr_db:.1f} dB from the network")
    if no_verify:
        note("not verified: --no-verify")
    for file in report.files:
        click.echo(file)
