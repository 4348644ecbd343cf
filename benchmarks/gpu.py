"""`python -m rofo.benchmarks.gpu`: speed and parity on this machine's NVIDIA GPU, for `make gpu-check`.

Plans and ONNX Runtime on CUDA against PyTorch, of a seeded public shape. What cannot run here is reported
with its reason and the rest is measured; without a GPU nothing is measured and nothing is written.
"""

import tempfile
from pathlib import Path

import click

from rofo import EngineLoadError
from rofo.benchmarks.cli import RESULTS, finish
from rofo.benchmarks.contestants import Choice
from rofo.benchmarks.document import is_ours
from rofo.benchmarks.parity import measure_parity
from rofo.benchmarks.results import Parity
from rofo.benchmarks.shapes import SHAPES, write_shape
from rofo.benchmarks.speed import measure_speed
from rofo.benchmarks.subject import Told, write_noise
from rofo.console import command_line, note
from rofo.engines.cuda import open_cuda
from rofo.threads import cores


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--shape", type=click.Choice(list(SHAPES)), default="viperx", show_default=True)
@click.option("--depth", type=click.IntRange(1), help="Fewer layers, for a quick look.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--chunks", type=click.IntRange(1), default=15, show_default=True, help="Length of the song.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Chunks at once.")
@click.option("--gate", type=float, default=30.0, show_default=True, help="Least dB of an engine.")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def check(
    shape: str, depth: int | None, rounds: int, chunks: int, batch: int, gate: float, results: Path
) -> int:
    """Measure what this GPU can; 1 where an engine that ran is wrong."""
    try:
        open_cuda(Path("gpu-check"), "rofo[rtx]").close()
    except EngineLoadError as error:
        click.echo(f"SKIPPED, nothing was measured: {error}")
        return 0
    choice = Choice(cores(), device="cuda", batch=batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, config = write_shape(shape, folder, **({"depth": depth} if depth else {}))
        told = Told(config)
        speed = measure_speed(checkpoint, told, choice, rounds=rounds, chunks=chunks, say=note)
        finish(speed, results, choice)
        song = write_noise(folder / "noise.wav", speed.song_seconds, speed.model.sample_rate, 2)
        parity = measure_parity(checkpoint, told, song, (), choice, say=note)
        finish(parity, results, choice)
    wrong = below(parity, gate)
    for line in wrong:
        note(line)
    return 1 if wrong else 0


def below(parity: Parity, gate: float) -> list[str]:
    """What is wrong, in words: engines whose output is further from the network in fp32 than `gate` dB."""
    return [
        f"{row.name}: {row.graph_snr:g} dB from the network in fp32, less than {gate:g}"
        for row in parity.rows
        if is_ours(row.name) and row.graph_snr is not None and row.graph_snr < gate
    ]


main = command_line(check)

if __name__ == "__main__":
    main()
