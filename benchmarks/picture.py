"""A picture of spectrograms side by side as one SVG file, for ears that are not there.

The pixels are PNG images inside the SVG; axes and names are text, so no plotting library is needed.
"""

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rofo.dsp.spectrogram import Spectrogram
from rofo.errors import OutputWriteError
from rofo.manifest import Stft

Floats = NDArray[np.float32]

# Silence to full scale: near black, blue, violet, orange, near white, each step about as much lighter.
_COLOURS = (
    (8, 8, 20),
    (40, 26, 94),
    (114, 31, 129),
    (190, 55, 100),
    (240, 112, 60),
    (252, 187, 95),
    (252, 253, 220),
)
_RANGE_DB = 80.0
_STFT = Stft(n_fft=2048, hop_length=512)
_TOP_HZ = 12_000
_ROWS, _COLUMNS = 150, 340  # pixels of one spectrogram
_GAP, _LEFT, _TOP = 26, 60, 40


def write_picture(path: Path, rows: Sequence[Mapping[str, Floats]], sample_rate: int) -> None:
    """Draw songs (channels, samples) under their names, a row for each mapping, in one scale of level.

    0 dB is the loudest point of the first. Raises OutputWriteError.
    """
    levels = [{name: _level(song, sample_rate) for name, song in row.items()} for row in rows]
    loudest = float(next(iter(levels[0].values())).max())
    drawn = [
        _panel(name, level - loudest, row, column, row_songs[name].shape[1] / sample_rate)
        for row, (named, row_songs) in enumerate(zip(levels, rows, strict=True))
        for column, (name, level) in enumerate(named.items())
    ]
    width = _LEFT + max(map(len, rows)) * (_COLUMNS + _GAP)
    height = len(rows) * (_ROWS + _TOP + _GAP) + 10
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" fill="#1c2430">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(drawn)}</svg>\n'
    )
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputWriteError(f"{path}: {error.strerror or error}; choose another place") from None


def _level(song: Floats, sample_rate: int) -> Floats:
    """dB up to _TOP_HZ, (_ROWS, _COLUMNS), the highest bins first; every pixel is its loudest point."""
    padded = np.pad(song.mean(axis=0), (0, max(0, _STFT.n_fft - song.shape[1])))
    spectrum = Spectrogram(_STFT, len(padded)).forward(padded)
    power = np.square(spectrum).sum(axis=-1).T[: max(2, round(_TOP_HZ / sample_rate * _STFT.n_fft))]
    pooled = np.maximum.reduceat(power, _edges(power.shape[0], _ROWS), axis=0)
    pooled = np.maximum.reduceat(pooled, _edges(power.shape[1], _COLUMNS), axis=1)
    level: Floats = 10 * np.log10(pooled[::-1] + 1e-20)
    return level


def _edges(size: int, pixels: int) -> NDArray[np.intp]:
    """Where each pixel begins; several may begin at one place where there are more of them."""
    return (np.arange(pixels) * size) // pixels


def _panel(name: str, decibels: Floats, row: int, column: int, seconds: float) -> str:
    left, top = _LEFT + column * (_COLUMNS + _GAP), _TOP + row * (_ROWS + _TOP + _GAP)
    shade = np.clip(decibels / _RANGE_DB + 1, 0, 1) * (len(_COLOURS) - 1)
    marks = np.arange(len(_COLOURS))
    pixels = np.stack([np.interp(shade, marks, channel) for channel in np.transpose(_COLOURS)], axis=-1)
    image = base64.b64encode(png(pixels.round().astype(np.uint8))).decode()
    scale = "".join(
        f'<text x="{left - 6}" y="{top + _ROWS * (1 - hz / _TOP_HZ) + 4:.0f}" '
        f'text-anchor="end">{hz // 1000}</text>'
        for hz in range(0, _TOP_HZ + 1, 4000)
    )
    axis = f'<text x="{left - 40}" y="{top - 8}" fill="#5b6675">kHz</text>{scale}'
    return (
        f'<text x="{left}" y="{top - 8}" font-size="14" font-weight="bold">{escape(name)}</text>'
        f'<image x="{left}" y="{top}" width="{_COLUMNS}" height="{_ROWS}" '
        f'href="data:image/png;base64,{image}"/>{"" if column else axis}'
        f'<text x="{left}" y="{top + _ROWS + 16}">0 s</text>'
        f'<text x="{left + _COLUMNS}" y="{top + _ROWS + 16}" text-anchor="end">{seconds:.1f} s</text>'
    )


def png(pixels: NDArray[np.uint8]) -> bytes:
    """The PNG file of pixels (rows, columns, 3): signature, header, data, end (RFC 2083)."""
    rows, columns, _ = pixels.shape
    unfiltered = np.pad(pixels.reshape(rows, -1), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(unfiltered, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
