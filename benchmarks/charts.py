"""Plots as inline SVG, in the colours of the page around them: classes that its style sheet knows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rofo.benchmarks.results import Spread

_WIDTH, _LABEL, _ROW = 860, 300, 30
_MOST_TICKS = 7
_FEWEST_TICKS = 3


@dataclass(frozen=True)
class Bar:
    """A labelled value with its spread; `strong` ones stand out."""

    label: str
    value: Spread
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Stack:
    """A labelled row of parts that add up, in the order of the legend."""

    label: str
    parts: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class Line:
    """Points of one curve, (x, value), x rising."""

    label: str
    points: tuple[tuple[float, Spread], ...]


def bars(rows: Sequence[Bar], title: str) -> str:
    """Horizontal bars from zero, with a whisker from the lowest to the highest value."""
    scale = (_WIDTH - _LABEL - 110) / max(row.value.highest for row in rows)
    drawn = []
    for i, row in enumerate(rows):
        y, end = i * _ROW + 6, _LABEL + row.value.median * scale
        low, high = (_LABEL + v * scale for v in (row.value.lowest, row.value.highest))
        drawn += [
            _label(row.label, y + 13),
            f'<rect x="{_LABEL}" y="{y}" width="{end - _LABEL:.1f}" height="18" rx="3" '
            f'class="{"strong" if row.strong else "bar"}"/>',
            f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}v8M{high:.1f} {y + 5}v8" '
            'class="whisker"/>',
            f'<text x="{max(end, high) + 8:.1f}" y="{y + 13}" class="value">{escape(row.text)}</text>',
        ]
    return _svg(len(rows) * _ROW + 8, drawn, title)


def stacks(rows: Sequence[Stack], legend: Sequence[str], title: str) -> str:
    """Horizontal rows, each as long as the longest: shares of a whole."""
    room = _WIDTH - _LABEL - 110
    drawn = [
        f'<rect x="{_LABEL + i * 110}" y="2" width="12" height="12" rx="2" class="part{i}"/>'
        f'<text x="{_LABEL + i * 110 + 18}" y="12" class="tick">{escape(name)}</text>'
        for i, name in enumerate(legend)
    ]
    for i, row in enumerate(rows):
        x, y, whole = float(_LABEL), i * _ROW + 28, sum(row.parts) or 1.0
        drawn += [
            _label(row.label, y + 13),
            f'<text x="{_LABEL + room + 8}" y="{y + 13}" class="value">{row.text}</text>',
        ]
        for number, part in enumerate(row.parts):
            width = part / whole * room
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.2f}" height="18" class="part{number}"/>')
            x += width
    return _svg(len(rows) * _ROW + 30, drawn, title)


def lines(curves: Sequence[Line], title: str, x_name: str, y_name: str) -> str:
    """Curves on two logarithmic axes, whiskers from lowest to highest."""
    points = [point for curve in curves for point in curve.points]
    plot = _LogPlot.around([x for x, _ in points], [v for _, s in points for v in (s.lowest, s.highest)])
    drawn = plot.axes(x_name, y_name)
    for number, curve in enumerate(curves):
        places = [(plot.x(x), plot.y(spread.median)) for x, spread in curve.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        drawn.append(f'<path d="M{path}" class="line line{number}"/>')
        for (x, spread), (left, top) in zip(curve.points, places, strict=True):
            low, high = plot.y(spread.lowest), plot.y(spread.highest)
            drawn += [
                f'<path d="M{left:.1f} {low:.1f}V{high:.1f}" class="whisker"/>',
                f'<circle cx="{left:.1f}" cy="{top:.1f}" r="4" class="dot line{number}">'
                f"<title>{escape(curve.label)}: {x:g} {escape(x_name)}, {spread.median:.4g}</title></circle>",
            ]
    return _svg(plot.height, drawn, title, width=plot.width)


@dataclass(frozen=True)
class _LogPlot:
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    width: int = 420
    height: int = 250
    left: int = 64
    bottom: int = 44

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> "_LogPlot":
        """Room for all values, and at least a factor of two: noise must not look like growth."""
        low, high = min(ys), max(ys)
        middle = math.sqrt(low * high)
        return cls((min(xs), max(xs)), (min(low, middle / 1.5) / 1.1, max(high, middle * 1.5) * 1.1))

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return self.left + 14 + _share(value, self.x_range) * (self.width - self.left - 34)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        return (self.height - self.bottom) - _share(value, self.y_range) * (self.height - self.bottom - 12)

    def axes(self, x_name: str, y_name: str) -> list[str]:
        """Grid, ticks and names."""
        floor, right = self.height - self.bottom, self.width - 8
        drawn = [
            f'<text x="{(self.left + right) / 2}" y="{self.height - 6}" '
            f'class="tick middle">{escape(x_name)}</text>',
            f'<text x="14" y="{floor / 2}" class="tick middle" '
            f'transform="rotate(-90 14 {floor / 2})">{escape(y_name)}</text>',
        ]
        for value in ticks(*self.y_range):
            y = self.y(value)
            drawn.append(f'<path d="M{self.left} {y:.1f}H{right}" class="grid"/>')
            drawn.append(f'<text x="{self.left - 6}" y="{y + 4:.1f}" class="tick end">{value:g}</text>')
        for value in ticks(*self.x_range):
            x = self.x(value)
            drawn.append(f'<path d="M{x:.1f} {floor}v4" class="whisker"/>')
            drawn.append(f'<text x="{x:.1f}" y="{floor + 18}" class="tick middle">{value:g}</text>')
        return drawn


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within: 1, 2, 5 times powers of ten; only the powers, or more steps, for many or few."""
    powers = [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    coarse, fine, finest = (
        [step * power for power in powers for step in steps if low <= step * power <= high]
        for steps in ((1,), (1, 2, 5), (1, 2, 3, 4, 5, 6, 8))
    )
    if len(fine) < _FEWEST_TICKS:
        return finest
    return fine if len(fine) <= _MOST_TICKS or len(coarse) < 2 else coarse


def _share(value: float, span: tuple[float, float]) -> float:
    low, high = map(math.log, span)
    return 0.5 if low == high else (math.log(value) - low) / (high - low)


def _label(text: str, y: float) -> str:
    return f'<text x="{_LABEL - 10}" y="{y}" class="label">{escape(text)}</text>'


def _svg(height: float, drawn: Sequence[str], title: str, width: int = _WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(drawn)}</svg>"
    )
