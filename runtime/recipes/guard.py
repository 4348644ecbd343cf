"""The step `guard`: of two signals the second, unless it is too much quieter than the first.

    make = "vocals" ; guard = ["wet", "dry"] ; drop_db = 10

X-LANCE keeps its vocals as they were before dereverberation where that takes more than 10 dB away.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rofo.recipes.spool import Spool
from rofo.recipes.step import Facts, Node, Settings, chosen, one_signal

FLOOR = 1e-10  # is added to an rms, as X-LANCE does


@dataclass(frozen=True)
class Guard:
    """The first where level(first) - level(second) > drop_db in the whole song, else the second.

    level = 20 log10(sqrt(mean(x^2)) + 1e-10) over samples and channels.
    """

    make: tuple[str, ...]
    guard: tuple[str, ...]
    drop_db: float

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return self.guard

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        yield from one_signal(self.make)
        if len(self.guard) != 2:
            yield "guard", f"compares two signals, and {len(self.guard)} are named"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""

        def choose(spools: list[Spool], number: int | None) -> int:
            before, after = (level_db(spool, number) for spool in spools)
            return 0 if before - after > self.drop_db else 1

        yield chosen(self.make[0], self.guard, choose)


def level_db(spool: Spool, number: int | None) -> float:
    """The level of a song in dB, as Guard has it."""
    squares = count = 0.0
    for block in spool.read(number):
        squares += float(np.square(block, dtype=np.float64).sum())
        count += block.size
    return float(20 * np.log10(np.sqrt(squares / count) + FLOOR))
