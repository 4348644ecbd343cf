"""A report as data: sections of tables and plots; as Markdown, and as an HTML page with everything inside."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
body { margin: 0 auto; max-width: 1000px; padding: 48px 24px 96px; color: #1c2430;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1, h2 { letter-spacing: -0.02em; margin-bottom: 4px; } h3 { font-size: 0.95rem; margin: 28px 0 8px; }
p { margin: 6px 0; } .soft { color: #5b6675; font-size: 0.9rem; }
nav a { color: #0d7a68; text-decoration: none; margin-right: 18px; }
section { margin-top: 48px; padding-top: 12px; border-top: 1px solid #dde2e9; }
.scroll { overflow-x: auto; margin: 20px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid #dde2e9; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: #5b6675; font-weight: 500; vertical-align: bottom; white-space: normal; }
tr.ours { background: #e4f3f0; font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 0 24px; } figure { margin: 0; } img { max-width: 100%; }
details { background: #f6f8fa; border-radius: 8px; padding: 10px 16px; margin-top: 20px; font-size: 0.9rem; }
li { margin: 4px 0; overflow-wrap: anywhere; }
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
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
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
