"""The step `quietest`: of every channel the signal that is quietest in the whole song.

    make = "vocals" ; quietest = ["v1", "v2", "v3"]

It is what audio-separator calls `ensemble_wav`: that cuts arrays of two channels into 240 parts along their
first axis, so that a channel is a part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rofo.recipes.spool import Spool
from rofo.recipes.step import Facts, Node, Settings, chosen, one_signal


@dataclass(frozen=True)
class Quietest:
    """The signal of the least mean(|x|), the first of several alike, channel by channel."""

    make: tuple[str, ...]
    quietest: tuple[str, ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return self.quietest

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        yield from one_signal(self.make)
        if len(self.quietest) < 2:
            yield "quietest", "compares two signals or more"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""

        def choose(spools: list[Spool], number: int | None) -> NDArray[np.intp]:
            sums = [sum(np.abs(b).sum(axis=-1, dtype=np.float64) for b in s.read(number)) for s in spools]
            least: NDArray[np.intp] = np.argmin(np.stack(sums), axis=0)
            return least

        yield chosen(self.make[0], self.quietest, choose)
