"""A report as one HTML file that asks the network for nothing: styles, tables and plots are all inside."""

from collections.abc import Sequence
from html import escape

from rofo.benchmarks.document import Plot, Section, Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --faint: #dde2e9; --page: #ffffff;
  --card: #f6f8fa; --ours: #0d7a68; --other: #a9b4c2; --tint: #e4f3f0;
  --part0: #7aa6d8; --part1: #f0b95a; --part2: #0d7a68; --part3: #d98a5f; --part4: #a58bc9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --soft: #9aa6b5; --faint: #2c3542;
  --page: #12171e; --card: #1a212b; --ours: #3cc4aa; --other: #566373; --tint: #163029;
  --part0: #5b8cc4; --part1: #d9a13f; --part2: #3cc4aa; --part3: #cf7a4c; --part4: #9478bd; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1000px; margin: 0 auto; padding: 48px 24px 96px; }
h1 { font-size: 2rem; letter-spacing: -0.02em; margin: 0 0 4px; }
h2 { font-size: 1.35rem; letter-spacing: -0.01em; margin: 0; }
h3 { font-size: 0.95rem; font-weight: 600; margin: 28px 0 8px; }
p { margin: 6px 0; } .soft, footer { color: var(--soft); font-size: 0.9rem; }
nav { margin: 16px 0 8px; } nav a { color: var(--ours); text-decoration: none; margin-right: 18px; }
section { margin-top: 48px; padding-top: 28px; border-top: 1px solid var(--faint); }
.scroll { overflow-x: auto; margin: 20px 0; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 12px; text-align: right; border-bottom: 1px solid var(--faint); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: normal; }
tr.strong { background: var(--tint); font-weight: 600; }
.plots { display: flex; flex-wrap: wrap; gap: 0 24px; }
figure { margin: 0; min-width: 0; } svg { max-width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font-size: 13px; } svg .label { text-anchor: end; }
svg .value { fill: var(--soft); } svg .tick { fill: var(--soft); font-size: 12px; }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .bar { fill: var(--other); } svg .strong { fill: var(--ours); }
svg .whisker { stroke: var(--ink); stroke-width: 1.2; fill: none; opacity: 0.65; }
svg .grid { stroke: var(--faint); fill: none; }
svg .line { fill: none; stroke: var(--ours); stroke-width: 2; } svg .dot { fill: var(--ours); }
svg .part0 { fill: var(--part0); } svg .part1 { fill: var(--part1); } svg .part2 { fill: var(--part2); }
svg .part3 { fill: var(--part3); } svg .part4 { fill: var(--part4); }
details { background: var(--card); border-radius: 8px; padding: 10px 16px; margin-top: 20px;
  font-size: 0.9rem; }
summary { cursor: pointer; } li { margin: 4px 0; overflow-wrap: anywhere; }
"""


def to_html(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    places = "".join(f'<a href="#run{i}">{escape(s.title)}</a>' for i, s in enumerate(sections))
    body = "".join(_section(i, section) for i, section in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p><nav>{places}</nav>{body}'
        "</main></body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    plots = "".join(map(_plot, section.plots))
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in section.notes)
    return (
        f'<section id="run{number}"><h2>{escape(section.title)}</h2>'
        f'<p class="soft">{escape(section.summary)}</p>'
        f'{"".join(map(_table, section.tables[:1]))}<div class="plots">{plots}</div>'
        f"{''.join(map(_table, section.tables[1:]))}{notes}{_left_out(section.left_out)}</section>"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        f"<tr{' class=strong' if i in table.strong else ''}>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(table.rows)
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _plot(plot: Plot) -> str:
    return f"<figure><h3>{escape(plot.title)}</h3>{plot.svg}</figure>"


def _left_out(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<details open><summary>Not measured: {len(lines)}</summary><ul>{items}</ul></details>"
