"""Charts of measurements, drawn by matplotlib. Importing this raises UsageError where it is not installed."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofo.benchmarks.results import Spread
from rofo.errors import OutputWriteError, UsageError

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError:
    raise UsageError(
        "matplotlib, which draws the plots, is not installed; pip install 'rofo[bench]'"
    ) from None

OURS, OTHERS, INK, GRID = "#0d7a68", "#a9b4c2", "#1c2430", "#dde2e9"
_LIGHTER, _PAPER = "#7cc0b2", "#ffffff"
_DARK = {OURS: "#2fb39b", _LIGHTER: "#1c6f61", INK: "#e6edf3", GRID: "#3d444d", _PAPER: "#0d1117"}
_PARTS = ("#7aa6d8", "#f0b95a", "#0d7a68", "#d98a5f", "#a58bc9")
_STYLE: Any = {
    "font.size": 10, "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": GRID, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none",
    "svg.hashsalt": "rofo",
    "grid.color": GRID,
}  # fmt: skip


@dataclass(frozen=True)
class Bar:
    """A labelled value with its spread; `strong` ones stand out."""

    label: str
    value: Spread
    text: str
    strong: bool = False


@mpl.rc_context(_STYLE)
def figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches and its axes, row by row."""
    drawn = Figure((width, height), layout="constrained")
    return drawn, list(drawn.subplots(rows, columns, squeeze=False).flat)


def write(drawn: Figure, path: Path) -> None:
    """Write a figure as the kind of file that the suffix says. Raises OutputWriteError."""
    try:
        drawn.savefig(path, dpi=120)
    except OSError as error:
        raise OutputWriteError(f"{path}: {error.strerror or error}; choose another place") from None


@mpl.rc_context(_STYLE)
def bars(rows: Sequence[Bar]) -> str:
    """An SVG: horizontal bars from zero, with a whisker from the lowest to the highest value."""
    drawn, (axes,) = figure(9, 0.5 + 0.34 * len(rows))
    values = [row.value.median for row in rows]
    below = [row.value.median - row.value.lowest for row in rows]
    above = [row.value.highest - row.value.median for row in rows]
    colours = [OURS if row.strong else OTHERS for row in rows]
    axes.barh(range(len(rows)), values, 0.62, color=colours, xerr=(below, above), ecolor=INK, capsize=2)
    for place, row in enumerate(rows):
        axes.annotate(row.text, (row.value.highest, place), (6, 0), textcoords="offset points", va="center")
    axes.margins(x=0.12)
    axes.set_xlim(0)
    return _labelled(drawn, axes, [row.label for row in rows])


@mpl.rc_context(_STYLE)
def comparison(groups: Mapping[str, Sequence[Bar]], mark: str) -> str:
    """An SVG: groups of horizontal bars with texts, strong ones darker, and a line named `mark` at 1."""
    rows = [row for group in groups.values() for row in group]
    drawn, (axes,) = figure(9, 0.9 + 0.26 * len(rows) + 0.16 * len(groups))
    place, ticks = 0.0, []
    for group in groups.values():
        ticks.append(place + (len(group) - 1) / 2)
        for row in group:
            axes.barh(place, row.value.median, 0.84, color=OURS if row.strong else _LIGHTER)
            axes.annotate(
                row.text, (row.value.median, place), (6, 0), textcoords="offset points", va="center"
            )
            place += 1
        place += 0.6
    axes.axvline(1, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        mark, (1, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points", ha="center"
    )
    axes.set_xlim(0, 1.3 * max(row.value.median for row in rows))
    axes.set_ylim(-0.6, place - 0.9)
    return _labelled(drawn, axes, list(groups), ticks)


def darkened(svg: str) -> str:
    """The same picture for a dark page."""
    for light, dark in _DARK.items():
        svg = svg.replace(light, dark)
    return svg


@mpl.rc_context(_STYLE)
def shares(rows: Mapping[str, Mapping[str, float]]) -> str:
    """An SVG: a row for each name, its parts as shares of their sum, which is written at its end."""
    drawn, (axes,) = figure(9, 0.9 + 0.34 * len(rows))
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    for number, name in enumerate(names):
        left = [_share(parts, names[:number]) for parts in rows.values()]
        width = [_share(parts, [name]) for parts in rows.values()]
        axes.barh(range(len(rows)), width, 0.62, left, color=_PARTS[number % len(_PARTS)], label=name)
    for place, parts in enumerate(rows.values()):
        axes.annotate(
            f"{sum(parts.values()):.3g} s", (1, place), (6, 0), textcoords="offset points", va="center"
        )
    axes.set_xlim(0, 1.1)
    axes.legend(ncols=len(names), frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return _labelled(drawn, axes, list(rows))


@mpl.rc_context(_STYLE)
def line(points: Sequence[tuple[float, Spread]], x_name: str, y_name: str) -> str:
    """An SVG: a curve on two logarithmic axes, with whiskers from lowest to highest.

    Its scale spans a factor of 2.25 at least: noise must not look like growth.
    """
    drawn, (axes,) = figure(4.5, 2.8)
    x, middle = [x for x, _ in points], [spread.median for _, spread in points]
    below = [spread.median - spread.lowest for _, spread in points]
    above = [spread.highest - spread.median for _, spread in points]
    axes.errorbar(x, middle, (below, above), color=OURS, ecolor=INK, marker="o", capsize=2)
    axes.set(xscale="log", yscale="log", xlabel=x_name, ylabel=y_name, xticks=x)
    axes.set_xticks([], minor=True)
    centre = (min(middle) * max(middle)) ** 0.5
    low, high = axes.get_ylim()
    low, high = min(low, centre / 1.5), max(high, centre * 1.5)
    axes.set_ylim(low, high)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    # Powers of ten alone are too few for less than one of them, and all between too many for more.
    axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else "")
    axes.grid(axis="y", which="both", linewidth=0.5)
    return _svg(drawn)


def _share(parts: Mapping[str, float], names: Sequence[str]) -> float:
    return sum(parts.get(name, 0.0) for name in names) / (sum(parts.values()) or 1.0)


def _labelled(drawn: Figure, axes: Axes, labels: Sequence[str], places: Sequence[float] | None = None) -> str:
    axes.set_yticks(range(len(labels)) if places is None else places, labels, parse_math=False)
    axes.tick_params(length=0)
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return _svg(drawn)


@mpl.rc_context(_STYLE)
def _svg(drawn: Figure) -> str:
    file = io.BytesIO()
    drawn.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().decode()
