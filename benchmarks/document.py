"""A report as data: sections of tables and plots; as Markdown, and as an HTML page with everything inside."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from rofo.report.style import STYLE

_OWN_STYLE = """
body { max-width: 1180px; } nav { line-height: 2; }
nav a { color: var(--link); text-decoration: none; margin-right: 18px; display: inline-block; }
tr.ours { background: var(--ours); font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 0 24px; } figure { overflow-x: auto; max-width: 100%; }
img { background: #fff; border-radius: 8px; min-width: 540px; }
details { background: var(--box); border-radius: 8px; padding: 10px 16px; margin-top: 20px; }
"""


def is_ours(name: str) -> bool:
    """Whether a row of results is rofo's: those stand out."""
    return name.startswith("rofo ")


@dataclass(frozen=True)
class Table:
    """Cells as text. The first column names the row."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """An SVG under a title."""

    title: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One run. `notes` are sentences about how it was measured, `left_out` what was not, with reasons."""

    title: str
    summary: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    plots: tuple[Plot, ...] = ()


def to_markdown(sections: Sequence[Section]) -> str:
    """Everything but the plots, which a text cannot hold."""
    return "\n".join(_markdown(section) for section in sections)


def markdown_table(table: Table) -> str:
    """The table in Markdown; a bar in a cell would end it."""
    rows = [table.head, ("---",) * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """One page that asks the network for nothing: styles, tables and plots are all inside."""
    links = (f'<a href="#run{i}">{escape(section.title)}</a>' for i, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{_OWN_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>{_soft([subtitle])}<nav>{''.join(links)}</nav>"
        f"{''.join(_html(i, section) for i, section in enumerate(sections))}</body></html>\n"
    )


def _markdown(section: Section) -> str:
    left_out = [f"* not measured: {line}" for line in section.left_out]
    tables = map(markdown_table, section.tables)
    blocks = f"## {section.title}", section.summary, *tables, " ".join(section.notes), "\n".join(left_out)
    return "\n\n".join(block for block in blocks if block) + "\n"


def _html(number: int, section: Section) -> str:
    first, *others = map(_html_table, section.tables)
    plots = "".join(f"<figure><h3>{escape(plot.title)}</h3>{_image(plot)}</figure>" for plot in section.plots)
    lines = "".join(f"<li>{escape(line)}</li>" for line in section.left_out)
    left_out = f"<details open><summary>Not measured</summary><ul>{lines}</ul></details>" if lines else ""
    return (
        f'<section id="run{number}"><h2>{escape(section.title)}</h2>{_soft([section.summary])}{first}'
        f'<div class="plots">{plots}</div>{"".join(others)}{_soft(section.notes)}{left_out}</section>'
    )


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr{' class=ours' if is_ours(row[0]) else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _image(plot: Plot) -> str:
    data = base64.b64encode(plot.svg.encode()).decode()
    return f'<img alt="{escape(plot.title)}" src="data:image/svg+xml;base64,{data}">'


def _soft(lines: Iterable[str]) -> str:
    return "".join(f'<p class="soft">{escape(line)}</p>' for line in lines)
