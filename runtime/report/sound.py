"""Levels of a song and the picture of its spectrum, in one pass over blocks of any length."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float32]

RANGE_DB, TOP_HZ = 80.0, 12_000.0  # what pictures show: below their loudest point, and from 0 up
_N_FFT, _HOP = 2048, 1024
_ROWS, _COLUMNS = 192, 720
# The colour map inferno of matplotlib (CC0) at equal distances, from silence to the loudest point.
_INFERNO = (
    (0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21), (250, 193, 39),
    (252, 255, 164),
)  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """`power` is (rows, columns): frequency from 0 to `top` Hz, time from the first sample to the last.

    `peak` is the largest magnitude, `level` the root of the mean square, both of all channels; `over` counts
    the samples beyond full scale.
    """

    power: Floats
    top: float
    peak: float
    level: float
    over: int

    @property
    def loudest(self) -> float:
        """The largest power."""
        return float(self.power.max(initial=0.0))

    def png(self, loudest: float) -> bytes:
        """A picture of the power in dB, low frequencies at the bottom; `loudest` has the brightest colour."""
        level = 10 * np.log10(np.maximum(self.power, 1e-20) / max(loudest, 1e-20))
        shade = np.clip(255 * (1 + level / RANGE_DB), 0, 255).astype(np.uint8)[::-1]
        steps = np.linspace(0, len(_INFERNO) - 1, 256)
        palette = [np.interp(steps, range(len(_INFERNO)), parts) for parts in zip(*_INFERNO, strict=True)]
        return _png(shade, np.round(np.stack(palette, axis=1)).astype(np.uint8))


def measure(blocks: Iterable[Floats], samples: int, sample_rate: int) -> Sound:
    """Of blocks (channels, n), `samples` in all. Memory does not depend on their number."""
    peak, squares, over, seen = 0.0, 0.0, 0, 0

    def heard() -> Iterator[Floats]:
        nonlocal peak, squares, over, seen
        for block in blocks:
            magnitude = np.abs(block)
            peak = max(peak, float(magnitude.max(initial=0)))
            squares += float(np.square(magnitude, dtype=np.float64).sum())
            over, seen = over + int(np.count_nonzero(magnitude > 1)), seen + block.size
            yield block

    top = min(TOP_HZ, sample_rate / 2)
    power = _power(heard(), samples, round(top / sample_rate * _N_FFT))
    return Sound(power, top, peak, (squares / max(seen, 1)) ** 0.5, over)


def _power(blocks: Iterable[Floats], samples: int, bins: int) -> Floats:
    """(rows, columns) of so many bins of all frames, the mean of all that fall together."""
    frames = 1 + max(0, samples - _N_FFT) // _HOP
    columns = min(_COLUMNS, frames)
    total, count = np.zeros((columns, bins)), np.zeros((columns, 1))
    window, frame = np.hanning(_N_FFT + 1)[:-1].astype(np.float32), 0
    for framed in _framed(blocks):
        spectrum = np.fft.rfft(framed[:, : frames - frame] * window, norm="forward")[..., :bins]
        power = np.square(np.abs(spectrum)).mean(axis=0)
        places = np.arange(frame, frame + len(power)) * columns // frames
        np.add.at(total, places, power)
        np.add.at(count, places, 1)
        frame += len(power)
    edges = np.unique(np.linspace(0, bins, _ROWS + 1).astype(int))
    rows = np.add.reduceat(total / np.maximum(count, 1), edges[:-1], axis=1) / np.diff(edges)
    return rows.T.astype(np.float32)


def _framed(blocks: Iterable[Floats]) -> Iterator[Floats]:
    """(channels, frames, n_fft) of what is there, zeros after a song that is shorter than a frame."""
    waiting, any_yet = np.zeros((1, 0), np.float32), False
    for block in blocks:
        waiting = np.concatenate([waiting, block], axis=1) if waiting.shape[1] else block
        if waiting.shape[1] >= _N_FFT:
            any_yet = True
            framed = sliding_window_view(waiting, _N_FFT, axis=1)[:, ::_HOP]
            yield framed
            waiting = waiting[:, framed.shape[1] * _HOP :]
    if not any_yet:
        yield np.pad(waiting, ((0, 0), (0, _N_FFT - waiting.shape[1])))[:, None]


def _png(shades: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """An image of (rows, columns) places in a palette (256, 3): PNG's colour type 3, without filters."""
    height, width = shades.shape
    rows = b"".join(b"\0" + row.tobytes() for row in shades)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
