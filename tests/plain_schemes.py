"""Plain, slow re-statements of how public tools join chunks (MSST's is in plain_demix.py), song in memory.

Written from descriptions of the tools for tests only; nothing here is shared with the product. In all of them
mix is (channels, samples) and model maps (channels, chunk) to (stems, channels, chunk).
"""

from collections.abc import Callable

import numpy as np


def uvr_mdx(mix: np.ndarray, model: Callable, *, chunk: int, n_fft: int, overlap: float | None) -> np.ndarray:
    """UVR's SeperateMDX.demix; overlap None is its "Default"."""
    length, trim = mix.shape[1], n_fft // 2
    gen = chunk - 2 * trim
    pad = gen + trim - length % gen
    mixture = np.concatenate([zeros(mix, trim), mix, zeros(mix, pad)], axis=1)
    step = chunk - n_fft if overlap is None else int((1 - overlap) * chunk)
    result, divider = None, np.zeros(mixture.shape[1])
    for i in range(0, mixture.shape[1], step):
        actual = min(chunk, mixture.shape[1] - i)
        part = np.zeros((mix.shape[0], chunk), np.float32)
        part[:, :actual] = mixture[:, i : i + actual]
        estimate = model(part)[..., :actual].astype(np.float64)
        if result is None:
            result = np.zeros((*estimate.shape[:-1], mixture.shape[1]))
        window = np.hanning(actual) if overlap != 0 else np.ones(actual)
        result[..., i : i + actual] += estimate * window
        divider[i : i + actual] += window
    with np.errstate(invalid="ignore"):
        return (result / divider)[..., trim:-trim][..., :length]


def kuielab(mix: np.ndarray, model: Callable, *, chunk: int, n_fft: int) -> np.ndarray:
    """kuielab's MDX-Net: trimmed chunks, put end to end."""
    length, trim = mix.shape[1], n_fft // 2
    gen = chunk - 2 * trim
    pad = gen - length % gen
    padded = np.concatenate([zeros(mix, trim), mix, zeros(mix, pad), zeros(mix, trim)], axis=1)
    kept = []
    i = 0
    while i < length + pad:
        kept.append(model(padded[:, i : i + chunk])[..., trim:-trim])
        i += gen
    return np.concatenate(kept, axis=-1)[..., :-pad]


def mdx_c(mix: np.ndarray, model: Callable, *, chunk: int, number: int) -> np.ndarray:
    """SDX'23 and UVR MDX-C: the average of `number` shifted chunks over every sample."""
    length, hop = mix.shape[1], chunk // number
    pad = hop - (length - chunk) % hop
    ends = zeros(mix, chunk - hop)
    padded = np.concatenate([ends, mix, zeros(mix, pad), ends], axis=1)
    result = 0
    for i in range(0, padded.shape[1] - chunk + 1, hop):
        estimate = model(padded[:, i : i + chunk])
        behind = padded.shape[1] - chunk - i
        result = result + np.pad(estimate, ((0, 0), (0, 0), (i, behind)))
    return (result / np.float32(number))[..., chunk - hop :][..., :length]


def mvsep(mix: np.ndarray, model: Callable, *, chunk: int, n_fft: int, outer: int, step: int) -> np.ndarray:
    """MVSEP's demix_full: kuielab's way in long slices, which are averaged."""
    total, divider = 0, np.zeros(mix.shape[1])
    for i in range(0, mix.shape[1], step):
        end = min(i + outer, mix.shape[1])
        part = kuielab(mix[:, i:end], model, chunk=chunk, n_fft=n_fft)
        total = total + np.pad(part.astype(np.float64), ((0, 0), (0, 0), (i, mix.shape[1] - end)))
        divider[i:end] += 1
    return total / divider


def zeros(mix: np.ndarray, samples: int) -> np.ndarray:
    return np.zeros((mix.shape[0], samples), np.float32)
