"""Which frequency bins each band of a Roformer reads, and what the widths of its layers say about that."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rofo.export.errors import CheckpointError
from rofo.export.families.band_groups import Bands

_RATES = (44100, 48000, 32000, 24000, 22050, 16000, 88200, 96000)
_N_FFTS = tuple(sorted(odd << power for odd in (1, 3) for power in range(5, 14)))
_MOST_MEL_BANDS = 1024  # public networks have 60 to 128; a filterbank is bands x bins numbers


@dataclass(frozen=True)
class Reading:
    """One way to read the widths of a network's band-split layers, `freqs_per_bands` in bins."""

    n_fft: int
    stereo: bool
    freqs_per_bands: tuple[int, ...]


@dataclass(frozen=True)
class MelReading:
    """One way to read the widths of a Mel-Band Roformer; the rate is that of the mel filters, in Hz."""

    n_fft: int
    stereo: bool
    mel_sample_rate: int


def bs_readings(inputs: Sequence[int], n_fft: int | None = None) -> list[Reading]:
    """Readings of a BS-Roformer's band inputs (2 x channels x bins each).

    Without `n_fft` only those whose n_fft is a multiple of 4: every public one is, and so one set of widths
    is never both mono and stereo.
    """
    return [
        Reading(size, channels == 2, tuple(widths))
        for channels, widths in _widths(inputs)
        for size in (2 * (sum(widths) - 1),)
        if size == n_fft or (n_fft is None and size > 0 and size % 4 == 0)
    ]


def mel_readings(
    inputs: Sequence[int], n_fft: int | None = None, rate: int | None = None
) -> list[MelReading]:
    """Readings of a Mel-Band Roformer's band inputs: which rates and sizes give such widths."""
    if len(inputs) > _MOST_MEL_BANDS:
        return []
    rates, n_ffts = (_RATES if rate is None else (rate,)), (_N_FFTS if n_fft is None else (n_fft,))
    return [
        MelReading(size, channels == 2, hz)
        for channels, widths in _widths(inputs)
        for size in n_ffts
        # Neighbouring filters overlap by half, so every bin is in one or two bands.
        if size // 2 + 1 <= sum(widths) <= 2 * (size // 2 + 1)
        for hz in rates
        if hz > 0 and _mel_widths(hz, size, len(widths)) == widths
    ]


def _widths(inputs: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Channels and bins per band, stereo first, for as many channels as the inputs divide by."""
    return [
        (channels, [width // (2 * channels) for width in inputs])
        for channels in (2, 1)
        if not any(width % (2 * channels) for width in inputs)
    ]


def _mel_widths(rate: int, n_fft: int, count: int) -> list[int] | None:
    try:
        return [bins for _, bins in mel_bands(rate, n_fft, count)]
    except CheckpointError:
        return None


def bs_bands(widths: Iterable[int]) -> Bands:
    """Bands of a BS-Roformer: consecutive, `widths` bins each, from bin 0 up."""
    bands, start = [], 0
    for width in widths:
        bands.append((start, width))
        start += width
    return tuple(bands)


def mel_bands(sample_rate: int, n_fft: int, num_bands: int) -> Bands:
    """Bands of a Mel-Band Roformer: overlapping, the bins where a mel filter is above zero.

    The filters are Slaney's (linear below 1 kHz, logarithmic above, unit area), from 0 Hz to half of
    `sample_rate`, as librosa computes them. Raises CheckpointError where a band would be empty or a bin
    in no band.
    """
    member = _mel_filters(sample_rate, n_fft, num_bands) > 0
    counts = member.sum(axis=1)
    starts = member.argmax(axis=1)
    ends = member.shape[1] - member[:, ::-1].argmax(axis=1)
    if not (member.any(axis=0).all() and (counts > 0).all() and (ends - starts == counts).all()):
        raise CheckpointError(
            f"{num_bands} mel bands at {sample_rate} Hz and n_fft {n_fft} leave bins or bands empty; "
            "use the sample rate and n_fft the network was trained with"
        )
    return tuple(zip(starts.tolist(), counts.tolist(), strict=True))


def _mel_filters(sample_rate: int, n_fft: int, num_bands: int) -> npt.NDArray[np.float32]:
    """Filter weights, float32 [num_bands, bins].

    Computed in float64 and stored in float32, as librosa does: what underflows to zero there must be zero
    here, or a band would be one bin wider than the weights that were trained on it.
    """
    bins = np.fft.rfftfreq(n_fft, 1.0 / sample_rate)
    edges = _mel_to_hz(np.linspace(0.0, _hz_to_mel(sample_rate / 2), num_bands + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
    weights = np.maximum(0.0, triangle).astype(np.float32)
    filters: npt.NDArray[np.float32] = (weights * (2.0 / (high - low))).astype(np.float32)
    # MSST forces both corners: no filter reaches bin 0, and the last bin holds about 2e-18 or exactly 0,
    # depending on the platform.
    filters[0, 0] = filters[-1, -1] = 1.0
    return filters


# Slaney's mel scale (Auditory Toolbox, 1998): 200/3 Hz per mel up to 1 kHz, then 27 mels per factor 6.4.
_HZ_PER_MEL = 200.0 / 3
_LOG_FROM_HZ = 1000.0
_LOG_FROM_MEL = _LOG_FROM_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _HZ_PER_MEL
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return np.where(mel < _LOG_FROM_MEL, _HZ_PER_MEL * mel, logarithmic)
