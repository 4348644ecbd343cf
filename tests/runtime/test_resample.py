"""Streaming resampling: the same samples as in one go."""

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from rofo.audio.resample import QUALITY, resample_blocks

RATES = [(44100, 48000), (48000, 44100), (8000, 44100), (384000, 44100), (44100, 88200), (44101, 44100)]


def noise(channels, samples):
    return np.random.default_rng(samples).standard_normal((channels, samples)).astype(np.float32)


def split(x, at):
    return np.split(x, sorted(at), axis=1)


def joined(blocks, channels=2):
    return np.concatenate([np.zeros((channels, 0), np.float32), *blocks], axis=1)


def one_shot(x, from_rate, to_rate):
    return soxr.resample(x.T, from_rate, to_rate, quality=QUALITY).T


@pytest.mark.parametrize(("from_rate", "to_rate"), RATES)
@pytest.mark.parametrize("samples", [0, 1, 2, 3, 100, 1000, 20_001])
def test_equals_the_one_shot_function_bit_for_bit(from_rate, to_rate, samples):
    x = noise(2, samples)
    got = joined(resample_blocks(split(x, [samples // 3]), 2, from_rate, to_rate))
    np.testing.assert_array_equal(got, one_shot(x, from_rate, to_rate))
    assert got.dtype == np.float32
    assert got.shape[1] == (2 * samples * to_rate + from_rate) // (2 * from_rate)


@settings(max_examples=60, deadline=None)
@given(
    samples=st.integers(0, 3000),
    rates=st.sampled_from(RATES),
    channels=st.sampled_from([1, 2, 6]),
    cuts=st.lists(st.floats(0, 1), max_size=20),
)
def test_the_division_into_blocks_does_not_matter(samples, rates, channels, cuts):
    x = noise(channels, samples)
    blocks = split(x, [int(cut * samples) for cut in cuts])
    got = joined(resample_blocks(blocks, channels, *rates), channels)
    np.testing.assert_array_equal(got, joined([one_shot(x, *rates)], channels))


def test_equal_rates_pass_blocks_through_untouched():
    blocks = split(noise(2, 1000), [1, 700])
    got = list(resample_blocks(iter(blocks), 2, 44100, 44100))
    assert all(mine is theirs for mine, theirs in zip(got, blocks, strict=True))


def test_constant_memory_in_and_out():
    """No block is kept: output comes while input is still being taken."""
    taken = []

    def source():
        for index in range(20):
            taken.append(index)
            yield noise(2, 10_000)

    out = resample_blocks(source(), 2, 44100, 48000)
    next(out)
    assert len(taken) < 5


def test_there_and_back_is_transparent():
    """A tone goes to the engine's rate and back within -100 dB."""
    time = np.arange(44100) / 44100
    x = (0.5 * np.sin(2 * np.pi * 5000 * time)).astype(np.float32)[None]
    there = joined(resample_blocks([x], 1, 44100, 48000), 1)
    back = joined(resample_blocks([there], 1, 48000, 44100), 1)
    middle = slice(2000, -2000)
    assert np.abs(back[:, : x.shape[1]] - x)[:, middle].max() < 1e-5
