"""A picture of spectrograms side by side, for ears that are not there."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.benchmarks.charts import figure, write
from rofo.dsp.spectrogram import Spectrogram
from rofo.manifest import Stft

Floats = NDArray[np.float32]

_STFT = Stft(n_fft=2048, hop_length=512)
_RANGE_DB, _TOP_KHZ = 80.0, 12.0


def write_picture(path: Path, rows: Sequence[Mapping[str, Floats]], sample_rate: int) -> None:
    """Draw songs (channels, samples) under their names, a row for each mapping, in one scale of level.

    0 dB is the loudest point of the first. The suffix of the path says what kind of file it is. Raises
    OutputWriteError, and UsageError without matplotlib.
    """
    columns = max(map(len, rows))
    drawn, axes = figure(4 * columns, 2.4 * len(rows), len(rows), columns)
    levels = [{name: _decibels(song) for name, song in row.items()} for row in rows]
    loudest = float(next(iter(levels[0].values())).max())
    for number, row in enumerate(levels):
        for (name, level), place in zip(row.items(), axes[number * columns :], strict=False):
            seconds = level.shape[1] * _STFT.hop_length / sample_rate
            image = place.imshow(
                level - loudest, origin="lower", aspect="auto", cmap="inferno", vmin=-_RANGE_DB, vmax=0,
                extent=(0, seconds, 0, sample_rate / 2000),
            )  # fmt: skip
            place.set_title(name, parse_math=False)
            place.set_ylim(0, min(_TOP_KHZ, sample_rate / 2000))
    drawn.supxlabel("seconds")
    drawn.supylabel("kHz")
    drawn.colorbar(image, ax=axes, label="dB", aspect=40)
    write(drawn, path)


def _decibels(song: Floats) -> Floats:
    """(bins, frames), of the mean of all channels."""
    mono = np.pad(song.mean(axis=0), (0, max(0, _STFT.n_fft - song.shape[1])))
    power = np.square(Spectrogram(_STFT, len(mono)).forward(mono)).sum(axis=-1).T
    level: Floats = 10 * np.log10(power + 1e-20)
    return level
