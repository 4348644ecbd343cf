"""Signal-to-distortion ratios of stems, as the music demixing challenges of 2021 and 2023 define them.

SDR = 10 log10((sum s^2 + eps) / (sum (s - s_hat)^2 + eps)), sums over all samples and channels, eps 1e-7
(Mitsufuji et al., "Music Demixing Challenge 2021", arXiv 2108.13559). Two sums, written out here, because no
library has just them: fast-bss-eval and mir_eval fit distortion filters first, which is another quantity;
museval's SDR is this one per window, but it brings in pandas and ffmpeg, and most of its time
goes into the filters of other metrics. Tests hold these functions to figures of museval 0.4.1.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_EPS = 1e-7


def sdr(truth: Floats, estimate: Floats) -> float | None:
    """Global SDR in dB of arrays (channels, samples); None where the truth is silent: there is no signal.

    Raises ValueError for arrays of different shapes.
    """
    if truth.shape != estimate.shape:
        raise ValueError(f"the truth has shape {truth.shape}, the estimate {estimate.shape}")
    signal = np.square(truth, dtype=np.float64).sum()
    distortion = np.square(truth.astype(np.float64) - estimate).sum()
    return float(10 * np.log10((signal + _EPS) / (distortion + _EPS))) if signal else None


def median_sdr(truth: Floats, estimate: Floats, sample_rate: int) -> float | None:
    """Median of the SDR of every whole second in which the truth is not silent, None without any."""
    starts = range(0, truth.shape[1] - sample_rate + 1, sample_rate)
    seconds = (slice(start, start + sample_rate) for start in starts)
    values = [sdr(truth[:, second], estimate[:, second]) for second in seconds]
    defined = [value for value in values if value is not None]
    return float(np.median(defined)) if defined else None
