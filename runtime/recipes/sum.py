"""The step `sum`: a weighted sum of signals, over a number.

make = "vocals" ; sum = { v1 = 12, v2 = 8 } ; divide = 20
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from rofo.recipes.step import Facts, Node, Settings, elementwise, one_signal
from rofo.song import Floats


@dataclass(frozen=True)
class Sum:
    """sum(weight x signal) / divide, in the order of the recipe, in float32."""

    make: tuple[str, ...]
    sum: Mapping[str, float]
    divide: float = 1.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return tuple(self.sum)

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        yield from one_signal(self.make)
        if not self.sum:
            yield "sum", "names no signal"
        if self.divide == 0:
            yield "divide", "is 0"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""
        yield weighted(self.make[0], self.sum, self.divide)


def weighted(make: str, weights: Mapping[str, float], divide: float = 1.0) -> Node:
    """The node of a weighted sum."""
    factors, divisor = [np.float32(weight) for weight in weights.values()], np.float32(divide)

    def function(blocks: list[Floats]) -> Floats:
        total = factors[0] * blocks[0]
        for factor, block in zip(factors[1:], blocks[1:], strict=True):
            total += factor * block
        return total if divisor == 1 else total / divisor

    return elementwise(make, tuple(weights), function)
