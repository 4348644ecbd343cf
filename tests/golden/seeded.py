"""Weights, songs and a stand-in network that follow from names and seeds alone, on any machine, for ever.

Only raw 64-bit numbers of PCG64 are used, which NumPy promises never to change (NEP 19), and arithmetic that
IEEE 754 rounds in one way. Whoever makes a golden file and whoever tests with it get the same bits.
"""

import re
from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np


def uniform(name: str, size: int) -> np.ndarray:
    """`size` numbers of [-1, 1), float64, that belong to `name`."""
    raw = np.random.PCG64(crc32(name.encode())).random_raw(size)
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def integers(name: str, count: int, *ranges: tuple[int, int]) -> list[tuple[int, ...]]:
    """`count` tuples of whole numbers, one of each range [low, high), that belong to `name`."""
    shares = (uniform(name, count * len(ranges)).reshape(count, -1) + 1) / 2
    return [tuple(int(low + share * (high - low)) for share, (low, high) in zip(row, ranges, strict=True))
            for row in shares]  # fmt: skip


def seeded_state(shapes: Mapping[str, Sequence[int]], seed: str = "") -> dict[str, np.ndarray]:
    """A state dict for parameters of these names and shapes: float32, counters int64."""
    return {name: _tensor(name, tuple(shape), seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: str) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    made = _constant(name, shape)
    if made is None:
        made = _random(name, shape, uniform(seed + _shared(name), int(np.prod(shape))).reshape(shape))
    return made.astype(np.float32)


def _constant(name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """What training never touches: tables of positions, the window and the padding of an STFT."""
    last, size = name.rpartition(".")[2], int(np.prod(shape))
    if last in ("freqs", "inv_freqs"):
        return 10000.0 ** (-np.arange(size) / size)
    if last == "window":
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    return np.zeros(shape) if last == "freq_pad" else None


def _shared(name: str) -> str:
    """One module of positions serves all layers of an axis: its keys differ, its tensor is the same."""
    return re.sub(r"^layers\.\d+\.(\d+)\.layers\.\d+\.", r"\1.", name) if "pope_embed" in name else name


def _random(name: str, shape: tuple[int, ...], numbers: np.ndarray) -> np.ndarray:
    centre, width = _centre_and_width(name, shape)
    return centre + width * numbers


def _centre_and_width(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Norms, gains, variances: around 1. Biases and means: around 0. Weights: of variance 1 / fan-in."""
    last = name.rpartition(".")[2]
    named = {"running_var": (1, 0.7), "temperature": (0, 0.5), "gamma": (1, 0.3), "beta": (0, 0.3)}
    if last in named:
        return named[last]
    if "pope_embed" in name:  # is clamped to [-2 pi, 0]
        return -3, 5
    if "freq_weights" in name:
        return 1, 0.3
    if shape == (1,) and last == "weight":  # PReLU
        return 0.3, 0.2
    if len(shape) == 1:
        return (1, 0.3) if last in ("weight", "scale") else (0, 0.3)
    return 0, np.sqrt(3 / int(np.prod(shape[1:])))


def noise(samples: int, channels: int = 2) -> np.ndarray:
    """(channels, samples) float32, multiples of 1/256: sums of them are exact in any order."""
    numbers = uniform(f"noise {channels} {samples}", channels * samples).reshape(channels, samples)
    return (np.round(256 * numbers) / 256).astype(np.float32)


def song(samples: int, channels: int = 2, *, silent: tuple[float, float] = (0, 0)) -> np.ndarray:
    """(channels, samples) float32: loud harmonics and noise as 16-bit PCM; zeros between shares of it."""
    time = np.arange(samples) / 44100
    rows = []
    for channel in range(channels):
        base = 110.0 * 1.5**channel
        tones = sum(np.sin(2 * np.pi * base * k * time + k * channel) / k for k in range(1, 30))
        rows.append(0.35 * tones + 0.1 * uniform(f"song {channel}", samples))
    pcm = np.round(32768 * np.clip(rows, -1, 1)) / 32768
    pcm[:, int(silent[0] * samples) : int(silent[1] * samples)] = 0
    return pcm.astype(np.float32)


def loud_song() -> np.ndarray:
    """(2, 6000) float32 up to 2, for systems that clip."""
    return 2 * song(6_000, silent=(0.4, 0.5))


def stand_in(chunk: np.ndarray) -> np.ndarray:
    """A network: (channels, n) -> (2, channels, n), by the place in the chunk and by all of the chunk."""
    place = ((np.arange(chunk.shape[-1]) + 1) / chunk.shape[-1]).astype(np.float32)
    loud = np.float32(np.abs(chunk).sum(dtype=np.float64) / chunk.size)
    return np.stack((chunk * place * loud, chunk[:, ::-1] + loud))


def coefficients(name: str, stems: int) -> list[tuple[float, float]]:
    """Of the network that `pointwise` stands in for: (a, b) of every stem, multiples of 1/64."""
    numbers = np.round(64 * uniform(f"network {name}", 2 * stems)) / 64
    return [(float(a), float(b)) for a, b in numbers.reshape(stems, 2)]


def pointwise(name: str, stems: int, samples: np.ndarray) -> np.ndarray:
    """A network called `name` (channels, n) -> (stems, channels, n): a x + b x^2, whatever cuts the song."""
    x = samples.astype(np.float32)
    pairs = [(np.float32(a), np.float32(b)) for a, b in coefficients(name, stems)]
    return np.stack([a * x + b * (x * x) for a, b in pairs])
