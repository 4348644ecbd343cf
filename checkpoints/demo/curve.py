"""The training curve as a small SVG: loss on the left scale, validation SDR on the right, over minutes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

Points = Sequence[tuple[float, float]]

LEFT: Final = 50.0
RIGHT: Final = 550.0
TOP: Final = 20.0
BOTTOM: Final = 240.0


@dataclass(frozen=True)
class Line:
    """Points of (minutes, value), drawn between `low` and `high`, which are written at `label_x`."""

    name: str
    points: Points
    low: float
    high: float
    color: str
    label_x: float

    def path(self, end: float) -> str:
        """The polyline for a picture that ends after `end` minutes."""
        across, up = (RIGHT - LEFT) / end, (BOTTOM - TOP) / (self.high - self.low)
        places = (f"{LEFT + m * across:.1f},{BOTTOM - (v - self.low) * up:.1f}" for m, v in self.points)
        return f'<polyline points="{" ".join(places)}" fill="none" stroke="{self.color}" stroke-width="2"/>'

    def labels(self) -> str:
        """The two ends of its scale."""
        anchor = "start" if self.label_x == LEFT else "end"
        style = f'x="{self.label_x}" fill="{self.color}" text-anchor="{anchor}"'
        high = f'<text {style} y="{TOP - 6}">{self.name} {self.high:.2f}</text>'
        return high + f'<text {style} y="{BOTTOM + 16}">{self.low:.2f}</text>'


def curve(losses: Points, scores: Points) -> str:
    """Return the SVG; both are (minutes, value) in order of time, at least two losses."""
    low, high = min(loss for _, loss in losses), max(loss for _, loss in losses)
    lines = (
        Line("loss", losses, low, high, "#1f5fa8", LEFT),
        Line("validation voice SDR, dB:", scores, 0.0, max(12.0, *(v for _, v in scores)), "#b5522b", RIGHT),
    )
    end = losses[-1][0]
    drawn = "".join(line.path(end) + line.labels() for line in lines)
    box = f'x="{LEFT}" y="{TOP}" width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"'
    minutes = f'<text x="300" y="{BOTTOM + 16}" text-anchor="middle">0 to {end:.0f} minutes</text>'
    head = 'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 264" font-family="sans-serif" font-size="12"'
    background = '<rect width="600" height="264" fill="white"/>'
    frame = f'<rect {box} fill="none" stroke="#999"/>'
    return f"<svg {head}>{background}{frame}{drawn}{minutes}</svg>\n"
