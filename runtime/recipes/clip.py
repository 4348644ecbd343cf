"""The step `clip`: samples beyond a limit are set to it.

make = "rest" ; clip = "difference" ; limit = 1.0
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rofo.recipes.step import Facts, Node, Settings, elementwise, one_signal


@dataclass(frozen=True)
class Clip:
    """-limit <= sample <= limit."""

    make: tuple[str, ...]
    clip: str
    limit: float = 1.0

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return (self.clip,)

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        yield from one_signal(self.make)
        if self.limit <= 0:
            yield "limit", f"is {self.limit}, not above 0"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""
        yield elementwise(self.make[0], self.inputs, lambda blocks: blocks[0].clip(-self.limit, self.limit))
