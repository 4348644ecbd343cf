"""`make readme`: figures of benchmarks/results/ into README.md and benchmarks/README.md, and a picture."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rofo.benchmarks.charts import Bar, comparison, darkened
from rofo.benchmarks.document import Table, is_ours, markdown_table
from rofo.benchmarks.results import Model, Parity, Scale, Speed, SpeedRow, Spread, load
from rofo.benchmarks.shapes import SHAPES
from rofo.benchmarks.tables import memory, model_line, parity_notes, parity_tables, speed_notes, speed_table

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
RECIPE = "three_runs"  # of checkpoints/demo, as `make bench` measures it
DEMO = "model"
# What README calls them, the largest first: what musicians know a model as.
TITLES = {
    "viperx": "BS-Roformer, 12 layers",
    "mdx23c": "MDX23C",
    "kim": "MDX-Net (Kim, UVR)",
    "scnet": "SCNet",
    "htdemucs": "Demucs v4",
    "bsrnn": "BSRNN",
    DEMO: "BS-Roformer, the demo's",
}
_CAPTION = """\
Weights are seeded, at the public sizes; the demo's are trained. *Times real time*: seconds of song a second.
*Times PyTorch*: against its fp32 in the same round. *dB from PyTorch*: power of a stem over that of its
difference from PyTorch's fp32, of the worst stem on a real mix; 110 is what rounding in fp32 makes, at 40 the
difference is a hundredth of the sound."""


def main() -> None:
    """Rewrite both pages in place, and draw the picture."""
    for file, text in made(ROOT, RESULTS).items():
        file.write_text(text, encoding="utf-8")


def made(root: Path, folder: Path) -> dict[Path, str]:
    """{file: text} of both pages and the picture in its two colours, from a folder of results."""
    first, measuring = root / "README.md", root / "benchmarks" / "README.md"
    texts = {file: file.read_text(encoding="utf-8") for file in (first, measuring)}
    entries = tuple(measured(folder))
    drawn = picture(entries)
    return {
        first: filled(texts[first], "table", table_block(entries)),
        measuring: filled(
            filled(texts[measuring], "speed", speed_block(folder)), "parity", parity_block(folder)
        ),
        folder / "speed.svg": drawn,
        folder / "speed-dark.svg": darkened(drawn),
    }


def filled(text: str, name: str, block: str) -> str:
    """The text with the block between the markers of a name written anew."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    found, count = pattern.subn(lambda match: match[1] + block + match[2], text)
    if count != 1:
        raise SystemExit(f"README.md: the marker <!-- {name} -->, then <!-- end -->, must stand there once")
    return found


@dataclass(frozen=True)
class Entry:
    """One of rofo's engines of a model on a machine; `decibels`: how far its worst stem is from PyTorch's."""

    title: str
    machine: str
    row: SpeedRow
    times: Spread
    decibels: float | None


def measured(folder: Path) -> Iterator[Entry]:
    """What README shows: of every model and machine the fastest backend in every precision."""
    for name, title in TITLES.items():
        for file in sorted(folder.glob(f"speed-{name}.json")) + sorted(folder.glob(f"speed-{name}-*.json")):
            speed = load(file)
            assert isinstance(speed, Speed)
            decibels = _decibels(file.with_name(f"parity{file.name.removeprefix('speed')}"))
            machine = speed.about.machine
            where = machine.gpu or f"{machine.cores} cores of {machine.processor}"
            by_speed = sorted(
                (row for row in speed.rows if is_ours(row.name)), key=lambda row: row.real_time.median
            )
            best = {row.precision: row for row in by_speed}
            for row in sorted(best.values(), key=by_speed.index):
                if row.times_pytorch is not None:
                    yield Entry(title, where, row, row.times_pytorch, decibels.get(row.name))


def _decibels(file: Path) -> dict[str, float]:
    """{name of a row: dB of its worst stem}; nothing where it was not measured."""
    if not file.exists():
        return {}
    parity = load(file)
    assert isinstance(parity, Parity)
    return {
        row.name: min(stem.song_snr for stem in row.stems if stem.song_snr is not None)
        for row in parity.rows
        if any(stem.song_snr is not None for stem in row.stems)
    }


def table_block(entries: Sequence[Entry]) -> str:
    """One row for each engine, in the words of a musician."""
    head = "model", "machine", "engine", "times real time", "times PyTorch", "dB from PyTorch", "memory"
    rows = tuple(
        (
            entry.title,
            entry.machine,
            entry.row.name.removeprefix("rofo "),
            _rounded(entry.row.real_time.median),
            _rounded(entry.times.median),
            "" if entry.decibels is None else f"{entry.decibels:.0f}",
            memory(entry.row.peak_mb.median),
        )
        for entry in entries
    )
    return f"{markdown_table(Table(head, rows))}\n\n{_CAPTION}\n"


def picture(entries: Sequence[Entry]) -> str:
    """An SVG: speed against PyTorch's, with dB beside it."""
    machines = list(dict.fromkeys(entry.machine for entry in entries))
    groups: dict[str, list[Bar]] = {}
    for entry in entries:
        far = "" if entry.decibels is None else f", {entry.decibels:.0f} dB"
        text = f"{entry.row.precision}: {_rounded(entry.times.median)} x{far}"
        title = entry.title if len(machines) == 1 else f"{entry.title}\n{entry.machine}"
        groups.setdefault(title, []).append(Bar(title, entry.times, text, entry.row.precision != "fp32"))
    return comparison(groups, "PyTorch fp32" if machines[1:] else f"PyTorch fp32, {machines[0]}")


def _rounded(value: float) -> str:
    """To two digits or more, where there are none to lose."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def speed_block(folder: Path) -> str:
    """The tables of `rofo-bench speed`: public shapes, as far as they were measured, the recipe, the demo."""
    sections = {}
    for name in (*SHAPES, RECIPE, DEMO):
        if (file := folder / f"speed-{name}.json").exists():
            speed = load(file)
            assert isinstance(speed, Speed)
            sections[_title(speed.model)] = (
                [speed_table(speed)],
                (model_line(speed.model), *speed_notes(speed)),
            )
    scale = load(folder / "scale-small.json")
    assert isinstance(scale, Scale)
    return f"{growth(scale)} {_in_sections(sections)}"


def parity_block(folder: Path) -> str:
    """The tables of `rofo-bench parity`: the demo model, and the public shapes that were measured."""
    sections = {}
    for name in (DEMO, *SHAPES):
        if (file := folder / f"parity-{name}.json").exists():
            parity = load(file)
            assert isinstance(parity, Parity)
            notes = model_line(parity.model), *parity_notes(parity)
            sections[_title(parity.model)] = [*parity_tables(parity)], notes
    return _in_sections(sections)


def _in_sections(sections: Mapping[str, tuple[Sequence[Table], Sequence[str]]]) -> str:
    """Tables under titles with the sentences about each; those that all have in common come once, before."""
    first, *others = (notes for _, notes in sections.values())
    common = [line for line in first if others and all(line in notes for notes in others)]
    blocks = [" ".join(common)]
    for title, (tables, notes) in sections.items():
        own = " ".join(line for line in notes if line not in common)
        blocks += [f"### {title}", *map(markdown_table, tables), own]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _title(model: Model) -> str:
    weights = {DEMO: "its trained weights", RECIPE: "three runs of the demo's model"}
    title = TITLES.get(model.name, model.architecture)
    return f"{model.name}: {title}, {weights.get(model.name, 'seeded weights')}"


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
