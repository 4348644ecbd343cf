"""SDR against figures of museval 0.4.1 (BSS eval v4) for the same signals, and where it is not defined."""

import numpy as np
import pytest

from rofo.benchmarks.metrics import median_sdr, sdr

RATE = 8000
TIME = np.arange(3 * RATE) / RATE


def tone(frequency, level, phase=0.0):
    return level * np.sin(2 * np.pi * frequency * TIME + phase)


A = np.stack([tone(220, 0.5), tone(330, 0.4, 1)])
B = np.stack([tone(1000, 0.3), tone(1500, 0.2)])
PAIRS = {
    # truth, estimate, museval's SDR with an infinite window, and of every second
    "growing hum": (
        A,
        A + np.array([[0.1], [0.05]]) * tone(50, 1 + TIME),
        6.70776,
        (11.47898, 7.14242, 4.24794),
    ),
    "quieter, with a leak": (B, 0.8 * B + 0.02 * A, 13.84455, (13.84455,) * 3),
}


@pytest.mark.parametrize("name", PAIRS)
def test_figures_are_those_of_museval(name):
    truth, estimate, whole, seconds = PAIRS[name]
    truth, estimate = truth.astype(np.float32), estimate.astype(np.float32)
    assert sdr(truth, estimate) == pytest.approx(whole, abs=1e-3)
    assert median_sdr(truth, estimate, RATE) == pytest.approx(np.median(seconds), abs=1e-3)


def test_formula_of_the_challenges():
    """With their epsilon, which a perfect estimate shows: 10 log10((signal + 1e-7) / 1e-7)."""
    truth = np.full((2, 50), 0.1, np.float32)
    assert sdr(truth, truth) == pytest.approx(10 * np.log10((1.0 + 1e-7) / 1e-7), abs=1e-4)


def test_of_silence_there_is_none():
    silent, loud = np.zeros((2, RATE), np.float32), np.ones((2, RATE), np.float32)
    assert sdr(silent, loud) is None
    assert median_sdr(silent, loud, RATE) is None


def test_silent_seconds_and_what_is_left_over_do_not_count():
    truth = np.concatenate([A[:, :RATE], 0 * A[:, :RATE], A[:, : RATE // 2]], axis=1).astype(np.float32)
    estimate = truth * np.float32(0.9)
    estimate[:, 2 * RATE :] = 1
    assert median_sdr(truth, estimate, RATE) == pytest.approx(20, abs=0.01)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        sdr(np.zeros((2, 5), np.float32), np.zeros((1, 5), np.float32))
