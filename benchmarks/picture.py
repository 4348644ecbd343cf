"""A picture of spectrograms side by side, for ears that are not there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.benchmarks.charts import figure, write
from rofo.report.sound import RANGE_DB, measure

Floats = NDArray[np.float32]


def write_picture(path: Path, rows: Sequence[Mapping[str, Floats]], sample_rate: int) -> None:
    """Draw songs (channels, samples) under their names, a row for each mapping, in one scale of level.

    0 dB is the loudest point of the first. The suffix of the path says what kind of file it is. Raises
    OutputWriteError, and UsageError without matplotlib.
    """
    columns = max(map(len, rows))
    drawn, axes = figure(4 * columns, 2.4 * len(rows), len(rows), columns)
    first = next(iter(rows[0].values()))
    loudest = 10 * np.log10(measure([first], first.shape[1], sample_rate).loudest + 1e-20)
    for number, row in enumerate(rows):
        for (name, song), place in zip(row.items(), axes[number * columns :], strict=False):
            sound = measure([song], song.shape[1], sample_rate)
            image = place.imshow(
                10 * np.log10(sound.power + 1e-20) - loudest, origin="lower", aspect="auto", cmap="inferno",
                vmin=-RANGE_DB, vmax=0, extent=(0, song.shape[1] / sample_rate, 0, sound.top / 1000),
            )  # fmt: skip
            place.set_title(name, parse_math=False)
    drawn.supxlabel("seconds")
    drawn.supylabel("kHz")
    drawn.colorbar(image, ax=axes, label="dB", aspect=40)
    write(drawn, path)
