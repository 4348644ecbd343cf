"""The picture of spectrograms: real PNG inside well-formed SVG, with the sound where it belongs."""

import base64
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

import numpy as np
import pytest

from rofo.benchmarks.picture import png, write_picture
from rofo.errors import OutputWriteError


def decoded(data: bytes) -> np.ndarray:
    """The pixels of a PNG of unfiltered rows; its checksums are checked."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(kind + body)
        chunks[kind], at = body, at + 12 + length
    columns, rows = struct.unpack_from(">II", chunks[b"IHDR"])
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(rows, 1 + 3 * columns)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(rows, columns, 3)


def test_pixels_survive() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    np.testing.assert_array_equal(decoded(png(pixels)), pixels)


def test_a_tone_is_a_bright_line_at_its_height(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    low, high = (np.sin(2 * np.pi * hz * time)[None].astype(np.float32) for hz in (3000, 9000))
    write_picture(tmp_path / "p.svg", [{"low <1>": low, "high": high}, {"silence": 0 * low}], 44100)
    text = (tmp_path / "p.svg").read_text()
    assert "low <1>" in [element.text for element in ET.fromstring(text).iter()]
    low_image, high_image, silence = (
        decoded(base64.b64decode(data)).sum(axis=(1, 2)) for data in re.findall(r"base64,([^\"]+)", text)
    )
    assert low_image.argmax() / len(low_image) == pytest.approx(1 - 3 / 12, abs=0.02)
    assert high_image.argmax() / len(high_image) == pytest.approx(1 - 9 / 12, abs=0.02)
    assert silence.max() == silence.min() < low_image.max() / 5


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputWriteError, match="No such file"):
        write_picture(tmp_path / "none" / "p.svg", [{"a": np.ones((1, 4096), np.float32)}], 8000)
