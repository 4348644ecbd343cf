"""A line of a terminal that is written over while something is on its way."""

import shutil
import sys
import unicodedata
from typing import Self

import click

from rofo.results import Progress
from rofo.text import printable

_BAR, _NAME = 24, 32  # columns


class StatusLine:
    """The last line of stderr, cleared when it is left; nothing where stderr is no terminal."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()
        self._columns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.show("")

    def show(self, text: str) -> None:
        """Write over what is there. What is wider than the terminal is cut: it would not go away again."""
        if self.on and (text or self._columns):
            line = _cut(printable(text), shutil.get_terminal_size().columns - 1)
            columns = _columns(line)
            click.echo(f"\r{line}{' ' * (self._columns - columns)}", err=True, nl=False)
            self._columns = columns
            if not line:
                click.echo("\r", err=True, nl=False)


def progress_text(name: str, progress: Progress | None) -> str:
    """A song's name, a bar, the share that is done, x real time and the time left; None before it begins."""
    progress = progress or Progress(0.0, None, 0.0)
    share = progress.done / progress.total if progress.total else 0.0
    bar = ("#" * int(share * _BAR)).ljust(_BAR, "-")
    speed = f"  {progress.speed:.2f} x real time" if progress.speed else ""
    left = f", {clock(progress.remaining)} left" if progress.remaining is not None else ""
    return f"{_cut(printable(name), _NAME)} [{bar}] {share:4.0%}{speed}{left}"


def clock(seconds: float) -> str:
    """Minutes and seconds, as 3:07, or hours before them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, short = divmod(minutes, 60)
    return f"{hours}:{short:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _columns(text: str) -> int:
    """How wide a terminal shows it: Chinese, Japanese and Korean characters take two columns."""
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _cut(text: str, most: int) -> str:
    if _columns(text) <= most:
        return text
    while text and _columns(text) > most - 3:
        text = text[:-1]
    return f"{text}..."
