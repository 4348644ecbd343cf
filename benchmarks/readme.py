"""`make readme`: the figures of benchmarks/results/ into README.md, between their markers."""

import re
from pathlib import Path

from rofo.benchmarks.document import markdown_table
from rofo.benchmarks.results import Parity, Scale, Speed, load
from rofo.benchmarks.shapes import SHAPES
from rofo.benchmarks.tables import model_line, parity_notes, parity_tables, speed_notes, speed_table

README = Path(__file__).parent.parent / "README.md"
RESULTS = Path(__file__).parent / "results"
RECIPE = "three_runs"  # of checkpoints/demo, as `make bench` measures it


def main() -> None:
    """Rewrite README.md in place."""
    README.write_text(rewritten(README.read_text(encoding="utf-8"), RESULTS), encoding="utf-8")


def rewritten(text: str, folder: Path) -> str:
    """The text with the figures of a folder of results."""
    return filled(filled(text, "speed", speed_block(folder)), "parity", parity_block(folder))


def filled(text: str, name: str, block: str) -> str:
    """The text with the block between the markers of a name written anew."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    found, count = pattern.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise SystemExit(f"README.md: the marker <!-- {name} -->, then <!-- end -->, must stand there once")
    return found


def speed_block(folder: Path) -> str:
    """The tables of `rofo-bench speed` on the seeded public shapes that were measured, and on the recipe."""
    others = [folder / f"speed-{name}.json" for name in SHAPES if name not in ("viperx", "small")]
    recipe = folder / f"speed-{RECIPE}.json"
    tables = [_viperx(folder), *(_measured(file, "Seeded weights.") for file in others if file.exists())]
    return "\n".join(
        [*tables, *([_measured(recipe, "Three runs of the demo model.")] if recipe.exists() else [])]
    )


def parity_block(folder: Path) -> str:
    """The tables of `rofo-bench parity` on the demo model."""
    parity = load(folder / "parity-model.json")
    assert isinstance(parity, Parity)
    tables = "\n\n".join(markdown_table(table) for table in parity_tables(parity))
    return f"{tables}\n\n{' '.join((model_line(parity.model), *parity_notes(parity)))}\n"


def _measured(file: Path, what: str) -> str:
    speed = load(file)
    assert isinstance(speed, Speed)
    notes = (what, model_line(speed.model), *speed_notes(speed))
    return f"{markdown_table(speed_table(speed))}\n\n{' '.join(notes)}\n"


def _viperx(folder: Path) -> str:
    """With the memory that songs need."""
    scale = load(folder / "scale-small.json")
    assert isinstance(scale, Scale)
    table = _measured(folder / "speed-viperx.json", "Seeded weights.")
    return f"{table.rstrip()} {growth(scale)}\n"


def growth(scale: Scale) -> str:
    """How the memory of the longest song compares with that of the shortest, in a sentence."""
    points = sorted(
        (point for point in scale.points if point.axis == "seconds"), key=lambda point: point.value
    )
    short, long = points[0], points[-1]
    ratio = long.peak_mb.median / short.peak_mb.median
    return (
        f"Peak memory of a song of {_length(long.value)} is {ratio:.2f} times that of one of "
        f"{_length(short.value)} (measured on a small network)."
    )


def _length(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


if __name__ == "__main__":
    main()
