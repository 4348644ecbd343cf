"""The step `matrix`: signals and their channels mixed with each other.

    make = ["bass", "drums"] ; on = ["a", "b", "mix"] ; matrix = [[...], ...]

A row for every channel of every signal made, a column for every channel of every signal of `on`, both signal
by signal: kuielab's mixer of its MDX-Net submission, see rofo.recipes.mixer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from rofo.recipes.step import Facts, Node, Settings, elementwise
from rofo.song import Floats


@dataclass(frozen=True)
class Matrix:
    """made = matrix @ on, at every sample."""

    make: tuple[str, ...]
    on: tuple[str, ...]
    matrix: tuple[tuple[float, ...], ...]

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return self.on

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        rows, columns = len(self.make) * channels, len(self.on) * channels
        if len(self.matrix) != rows or any(len(row) != columns for row in self.matrix):
            yield "matrix", f"is not {rows} rows of {columns} numbers"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""
        weights, channels = np.array(self.matrix, np.float32), settings.channels
        whole = f"[{', '.join(self.make)}]"

        def function(blocks: list[Floats]) -> Floats:
            return mixed(weights, blocks, channels)

        yield elementwise(whole, self.on, function)
        for place, name in enumerate(self.make):
            yield elementwise(name, (whole,), partial(_row, place))


def _row(place: int, blocks: list[Floats]) -> Floats:
    row: Floats = blocks[0][place]
    return row


def mixed(matrix: Floats, parts: list[Floats], channels: int) -> Floats:
    """The matrix on parts (channels, n) -> (signals, channels, n).

    A stereo song of a mono recipe is mixed channel by channel. Products are summed in a fixed order, as no
    matrix product promises to, so that samples do not depend on how many are computed at once.
    """
    samples = parts[0].shape[-1]
    columns = np.stack(parts).reshape(len(parts) * channels, -1, samples)
    total = np.zeros((len(matrix), *columns.shape[1:]), np.float32)
    for weights, column in zip(matrix.T, columns, strict=True):
        total += weights[:, None, None] * column
    return total.reshape(len(matrix) // channels, -1, samples)
