"""STFT size, channels and bands of a network, recovered from the widths of its band-split layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rofo.export.errors import CheckpointError
from rofo.export.families.roformer.bands import Bands, bs_bands, mel_bands

RATES = (44100, 48000, 32000, 24000, 22050, 16000, 88200, 96000)
N_FFTS = tuple(sorted(odd << power for odd in (1, 3) for power in range(5, 14)))

_MOST_MEL_BANDS = 1024  # public networks have 60 to 128; a filterbank is bands x bins numbers


@dataclass(frozen=True)
class Layout:
    """One way to read the band widths. `rate` is the sample rate of the mel filters, None for BS bands."""

    n_fft: int
    channels: int
    bands: Bands
    rate: int | None = None


def bs_layouts(inputs: Sequence[int], n_fft: int | None = None) -> list[Layout]:
    """Readings of a BS-Roformer's band inputs (2 x channels x bins each), stereo first.

    Without `n_fft` only those whose n_fft is a multiple of 4: every public one is, and so one set of widths
    is never both mono and stereo.
    """
    found = []
    for channels, widths in _widths(inputs):
        size = 2 * (sum(widths) - 1)
        if size == n_fft or (n_fft is None and size > 0 and size % 4 == 0):
            found.append(Layout(size, channels, bs_bands(widths)))
    return found


def mel_layouts(
    inputs: Sequence[int], rates: Iterable[int] = RATES, n_ffts: Sequence[int] = N_FFTS
) -> list[Layout]:
    """Readings of a Mel-Band Roformer's band inputs: which of these rates and sizes give such widths."""
    rates, found = tuple(rates), []
    if len(inputs) > _MOST_MEL_BANDS:
        return []
    for channels, widths in _widths(inputs):
        # Neighbouring filters overlap by half, so every bin is in one or two bands.
        sizes = [size for size in n_ffts if size // 2 + 1 <= sum(widths) <= 2 * (size // 2 + 1)]
        for size in sizes:
            for rate in rates:
                bands = _mel_bands_or_none(rate, size, len(widths))
                if bands is not None and [count for _, count in bands] == widths:
                    found.append(Layout(size, channels, bands, rate))
    return found


def _widths(inputs: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Channels and bins per band, for stereo and mono as far as the inputs divide."""
    return [
        (channels, [width // (2 * channels) for width in inputs])
        for channels in (2, 1)
        if not any(width % (2 * channels) for width in inputs)
    ]


def _mel_bands_or_none(rate: int, n_fft: int, count: int) -> Bands | None:
    try:
        return mel_bands(rate, n_fft, count)
    except CheckpointError:
        return None
