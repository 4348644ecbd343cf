"""A report as data: sections of facts, tables and plots, and its text in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column names the row; `strong` rows stand out, by number."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Plot:
    """An inline SVG under a title."""

    title: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One run. `notes` are sentences about how it was measured, `left_out` what was not, with reasons."""

    title: str
    summary: str
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]


def to_markdown(sections: Sequence[Section]) -> str:
    """Everything but the plots, which a text cannot hold."""
    return "\n".join(_section(section) for section in sections)


def markdown_table(table: Table) -> str:
    """The table in Markdown; a bar in a cell would end it."""
    rows = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _section(section: Section) -> str:
    left_out = [f"* not measured: {line}" for line in section.left_out]
    blocks = [
        f"## {section.title}",
        section.summary,
        *map(markdown_table, section.tables),
        " ".join(section.notes),
        "\n".join(left_out),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"
