"""`make readme`: the figures of benchmarks/results/ into README.md, between their markers."""

import json
import re
from pathlib import Path
from typing import Any

from rofo.benchmarks.document import markdown_table
from rofo.benchmarks.results import Scale, Speed, load
from rofo.benchmarks.sections import model_line, speed_notes, speed_table

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"(<!-- cpu results -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite README.md in place."""
    README.write_text(filled(README.read_text(encoding="utf-8"), block(RESULTS)), encoding="utf-8")


def filled(text: str, block: str) -> str:
    """The text with the block between the markers written anew."""
    found, count = _BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise SystemExit("README.md: the markers <!-- cpu results --> and <!-- end --> must stand there once")
    return found


def block(folder: Path) -> str:
    """The tables of `rofo-bench speed` on the seeded public shapes that were measured."""
    convolutional = [folder / f"speed-{name}.json" for name in ("kim", "mdx23c")]
    return "\n".join([_viperx(folder), *(_seeded(file) for file in convolutional if file.exists())])


def _seeded(file: Path) -> str:
    speed = load(file)
    assert isinstance(speed, Speed)
    notes = ("Seeded weights.", model_line(speed.model), *speed_notes(speed))
    return f"{markdown_table(speed_table(speed))}\n\n{' '.join(notes)}\n"


def _viperx(folder: Path) -> str:
    """With the memory that songs need."""
    file = folder / "speed-viperx.json"
    if not file.exists():
        # TEMPORARY: until `make bench` was run on an idle machine; then this and cpu.json go.
        return cpu_table(json.loads((folder / "cpu.json").read_text(encoding="utf-8")))
    scale = load(folder / "scale-small.json")
    assert isinstance(scale, Scale)
    return f"{_seeded(file).rstrip()} {growth(scale)}\n"


def growth(scale: Scale) -> str:
    """How the memory of the longest song compares with that of the shortest, in a sentence."""
    points = sorted(
        (point for point in scale.points if point.axis == "seconds"), key=lambda point: point.value
    )
    short, long = points[0], points[-1]
    ratio = long.peak_mb.median / short.peak_mb.median
    return (
        f"Peak memory of a song of {long.value / 60:g} minutes is {ratio:.2f} times that of one of "
        f"{short.value / 60:g} (measured on a small network)."
    )


def cpu_table(results: dict[str, Any]) -> str:
    """A Markdown table of contestants, then what was measured, where."""
    machine, limits = results["machine"], results["matrix_gflops"]
    lines = [
        "| | seconds for the song | times PyTorch | of the matrix rate | outside the engine | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in results["contestants"].items():
        outside = figures.get("outside_engine")
        peak = figures.get("peak_mb")
        lines.append(
            f"| {name} | {_spread(figures['wall'], 0)} | {_spread(figures['times_pytorch'], 2)} "
            f"| {figures['share_of_matrix_rate']:.0%} | {_percent(outside)} | {_gigabytes(peak)} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    growth, export = results["growth"], results["export"]
    lines += [
        "",
        f"{results['model']}, seeded weights, a song of {results['song_seconds']:.0f} s, "
        "median (lowest-highest) of "
        f"{results['rounds']} interleaved rounds on {machine['cores']} cores of an {machine['processor']} "
        f"({', '.join(machine['flags'])}); {versions}. Whole processes, from start to written files; PyTorch "
        "is the network alone, already loaded. The matrix rate is what a large product reaches in PyTorch in "
        f"the same run: {limits['fp32']['median']:.0f} GFLOP/s in fp32, {limits['bf16']['median']:.0f} in "
        f"bf16, for {results['tflop_per_chunk']:.1f} TFLOP per chunk. Export without verification: "
        f"{export['seconds']:.0f} s, {export['ratio']:.1f} times the checkpoint in memory. Peak memory of a "
        f"30-minute song is {growth['ratio']:.2f} times that of a 3-minute song. `rofo-run --help` takes "
        f"{results['help_seconds']['median']:.2f} s.",
        "",
    ]
    return "\n".join(lines)


def _spread(figure: dict[str, float], digits: int) -> str:
    low, high = figure["lowest"], figure["highest"]
    return f"{figure['median']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _percent(figure: dict[str, float] | None) -> str:
    return f"{figure['median']:.1%}" if figure else ""


def _gigabytes(figure: dict[str, float] | None) -> str:
    return f"{figure['median'] / 1024:.1f} GB" if figure else ""


if __name__ == "__main__":
    main()
