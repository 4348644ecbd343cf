"""`make readme`: the figures of benchmarks/results/ into README.md, between their markers."""

import json
import re
from pathlib import Path
from typing import Any

from rofo.benchmarks.cpu import RESULTS

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(r"(<!-- cpu results -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite README.md in place."""
    README.write_text(filled(README.read_text(encoding="utf-8"), load_results()), encoding="utf-8")


def load_results() -> dict[str, Any]:
    """The committed figures."""
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return results


def filled(text: str, results: dict[str, Any]) -> str:
    """The text with the block between the markers written anew."""
    block = cpu_table(results)
    found, count = _BLOCK.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise SystemExit("README.md: the markers <!-- cpu results --> and <!-- end --> must stand there once")
    return found


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
