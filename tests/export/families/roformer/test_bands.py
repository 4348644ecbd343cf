import re

import pytest

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.bands import (
    MelReading,
    Reading,
    bs_bands,
    bs_readings,
    mel_bands,
    mel_readings,
)

# "start,count" per band, computed once from the definition (Slaney's filterbank, both corners forced).
TABLES = {
    "60 bands at 44100 Hz": """
        0,7 4,6 7,6 10,6 13,6 16,6 19,6 22,6 25,6 28,6 31,6 34,6 37,6 40,6 43,6 46,7 49,7 53,7 56,9 60,9
        65,9 69,10 74,10 79,11 84,13 90,13 97,13 103,15 110,16 118,17 126,19 135,20 145,20 155,22 165,24
        177,26 189,28 203,29 217,31 232,33 248,36 265,39 284,41 304,44 325,47 348,50 372,54 398,57 426,61
        455,66 487,71 521,76 558,80 597,86 638,93 683,99 731,105 782,113 836,122 895,130""",
    "60 bands at 48000 Hz": """
        0,6 3,6 6,6 9,6 12,6 15,5 18,5 20,6 23,6 26,6 29,6 32,6 35,5 38,5 40,6 43,7 46,7 50,7 53,8 57,8
        61,9 65,10 70,10 75,11 80,12 86,13 92,14 99,14 106,15 113,17 121,18 130,19 139,20 149,22 159,24
        171,25 183,27 196,29 210,31 225,33 241,35 258,38 276,41 296,44 317,47 340,50 364,54 390,58 418,62
        448,66 480,71 514,76 551,81 590,87 632,94 677,101 726,107 778,114 833,123 892,133""",
    "64 bands at 44100 Hz": """
        0,6 3,6 6,6 9,6 12,6 15,6 18,5 21,5 23,6 26,6 29,6 32,6 35,6 38,5 41,5 43,6 46,6 49,7 52,7 56,7
        59,8 63,9 67,9 72,9 76,11 81,11 87,11 92,13 98,14 105,14 112,15 119,16 127,17 135,18 144,19 153,21
        163,22 174,23 185,25 197,27 210,28 224,30 238,33 254,34 271,36 288,39 307,42 327,44 349,47 371,51
        396,53 422,57 449,61 479,64 510,69 543,74 579,78 617,83 657,89 700,95 746,101 795,107 847,115
        902,123""",
    "128 bands at 44100 Hz": """
        0,3 2,3 3,3 5,3 6,3 8,3 9,3 11,2 12,3 13,3 15,3 16,3 18,3 19,3 21,3 22,3 24,2 25,3 26,3 28,3 29,3
        31,3 32,3 34,2 35,3 36,3 38,3 39,3 41,3 42,3 44,3 45,3 47,3 48,3 50,3 51,4 53,3 55,3 56,4 58,4
        60,4 62,4 64,4 66,4 68,5 70,5 73,4 75,5 77,5 80,5 82,6 85,6 88,6 91,6 94,6 97,6 100,6 103,7 106,7
        110,7 113,8 117,8 121,8 125,8 129,8 133,9 137,9 142,9 146,10 151,10 156,10 161,10 166,11 171,12
        177,12 183,12 189,12 195,13 201,13 208,13 214,14 221,15 228,15 236,15 243,16 251,17 259,18 268,18
        277,18 286,18 295,19 304,20 314,21 324,22 335,22 346,23 357,24 369,24 381,25 393,26 406,26 419,27
        432,29 446,30 461,30 476,31 491,33 507,34 524,34 541,35 558,37 576,38 595,39 614,41 634,42 655,43
        676,45 698,46 721,47 744,49 768,51 793,53 819,54 846,56 873,58 902,59 931,61 961,64""",
}
SUMS = dict(zip(TABLES, (1979, 1978, 1984, 2015), strict=True))


def table(key):
    return tuple((int(start), int(count)) for start, count in re.findall(r"(\d+),(\d+)", TABLES[key]))


def inputs(bands, channels):
    return [2 * channels * count for _, count in bands]


def numbers(key):
    """Number of bands and sample rate."""
    return map(int, re.findall(r"\d+", key))


@pytest.mark.parametrize("key", TABLES)
def test_mel_bands_are_those_the_public_weights_were_trained_on(key):
    count, rate = numbers(key)
    bands = mel_bands(rate, 2048, count)
    assert bands == table(key)
    assert sum(count for _, count in bands) == SUMS[key]


@pytest.mark.parametrize("rate", [44100, 48000, 32000])
def test_the_last_band_reaches_the_last_bin_though_its_weight_rounds_to_zero(rate):
    # The raw weight there is 1.8e-18 at 44.1 kHz and 0 at 32 kHz.
    start, count = mel_bands(rate, 2048, 60)[-1]
    assert start + count == 1025


def test_mel_bands_that_leave_a_band_empty_are_refused():
    with pytest.raises(CheckpointError, match="300 mel bands at 44100 Hz and n_fft 512"):
        mel_bands(44100, 512, 300)


def test_bs_bands_follow_each_other():
    assert bs_bands([2, 4, 11]) == ((0, 2), (2, 4), (6, 11))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("key", TABLES)
def test_mel_widths_reveal_rate_size_and_channels(key, channels):
    _, rate = numbers(key)
    assert mel_readings(inputs(table(key), channels)) == [MelReading(2048, channels == 2, rate)]


def test_mel_widths_of_other_rates_and_sizes_are_read_where_these_are_told():
    widths = inputs(mel_bands(37800, 2000, 40), 2)
    assert mel_readings(widths) == []
    assert mel_readings(widths, 2000, 37800) == [MelReading(2000, True, 37800)]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("n_fft", [64, 2048, 6144])
def test_bs_widths_reveal_size_and_channels(n_fft, channels):
    widths = (2, 4, 8, n_fft // 2 + 1 - 14)
    assert bs_readings(inputs(bs_bands(widths), channels)) == [Reading(n_fft, channels == 2, widths)]


def test_bs_widths_of_an_odd_size_need_to_be_told():
    widths = inputs(bs_bands([100, 924]), 2)
    assert bs_readings(widths) == bs_readings(widths, 2048) == []
    assert bs_readings(widths, 2046) == [Reading(2046, True, (100, 924))]


def test_widths_that_are_no_bands_have_no_reading():
    assert bs_readings([3, 5]) == mel_readings([3, 5]) == mel_readings([4] * 20) == []
