"""The picture of spectrograms: the sound is where it belongs."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from rofo.benchmarks.picture import write_picture
from rofo.errors import OutputWriteError

TIME = np.arange(44100) / 44100


def tone(hz: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * TIME)[None].astype(np.float32)


def brightest_row(path: Path, *songs: np.ndarray) -> list[float]:
    """Where the brightest line of each song's panel lies, from the top of the picture down."""
    write_picture(path, [{f"song $<{i}>": song for i, song in enumerate(songs)}], 44100)
    red = imread(path)[:, :, :3].min(axis=2) * (imread(path)[:, :, 0] > imread(path)[:, :, 2])
    rows, columns = red.shape
    panels = [red[:, round(columns * a) : round(columns * b)] for a, b in ((0.15, 0.4), (0.55, 0.8))]
    return [float(panel.sum(axis=1).argmax()) / rows for panel in panels]


def test_a_tone_is_a_bright_line_at_its_height(tmp_path: Path) -> None:
    low, high = brightest_row(tmp_path / "p.png", tone(3000), tone(9000))
    middle = brightest_row(tmp_path / "q.png", tone(6000), tone(6000))[0]
    assert high < middle < low
    assert middle - high == pytest.approx(low - middle, abs=0.02)


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputWriteError, match="No such file"):
        write_picture(tmp_path / "none" / "p.png", [{"a": np.ones((1, 4096), np.float32)}], 8000)
