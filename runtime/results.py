"""What a caller is told: how far a separation has come, and what became of a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a separation has come; `total` is None while the length of a stream is unknown."""

    done: float
    total: float | None
    elapsed: float

    @property
    def speed(self) -> float:
        """Seconds of song per second."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds still to go at this speed."""
        return None if self.total is None or not self.speed else (self.total - self.done) / self.speed


class SeparatedFile(dict[str, Path]):
    """{stem: path} of one file, with its length and the time taken in seconds, and what to know about it.

    `engines` are the seconds within each engine, by its name, `silent` the chunks of exact zeros that each
    was not run for. `sha256` are those of the files, by stem, `song_sha256` that of the input. `skipped`
    tells that the stems were there.
    """

    def __init__(
        self,
        paths: dict[str, Path],
        *,
        seconds: float,
        elapsed: float,
        warnings: Sequence[str],
        sha256: Mapping[str, str],
        song_sha256: str,
        engines: Mapping[str, float] | None = None,
        silent: Mapping[str, int] | None = None,
        skipped: bool = False,
    ) -> None:
        super().__init__(paths)
        self.seconds, self.elapsed = seconds, elapsed
        self.engines, self.silent = dict(engines or {}), dict(silent or {})
        self.sha256, self.song_sha256 = dict(sha256), song_sha256
        self.warnings, self.skipped = tuple(warnings), skipped
