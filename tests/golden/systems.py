"""Whole systems of small seeded networks: the music they hear, their checkpoints, what is kept of stems.

`facts["files"]` of a case has the checkpoints by the names that the system knows them by. Each has a `form`,
the shapes of its weights and a `seed`, and what else the form needs.
"""

from pathlib import Path

import numpy as np
import soundfile

DEMO = Path(__file__).parents[2] / "checkpoints" / "demo" / "mix.flac"  # real music, 44.1 kHz, 16 bit
BEGIN = 220_500
# The one number that Demucs' shifts get, in the originals and in rofo: both draw them, each in its own way.
OFFSET = 21_001
_EDGE, _INSIDE = 48, 150


def music(samples: int) -> np.ndarray:
    """(2, samples) float32 of the demo mix, where voice and instruments sound."""
    read, _ = soundfile.read(DEMO, samples, BEGIN, dtype="float32")
    return np.ascontiguousarray(read.T)


def kept(stem: np.ndarray) -> np.ndarray:
    """Of a stem (..., n) both ends and every so many samples between, float32."""
    samples = stem.shape[-1]
    inside = np.arange(0, samples, max(1, samples // _INSIDE))
    ends = np.arange(_EDGE), np.arange(samples - _EDGE, samples)
    places = np.unique(np.clip(np.concatenate((inside, *ends)), 0, samples - 1))
    return np.ascontiguousarray(stem[..., places], np.float32)


def flipped_kernels(initializer: np.ndarray) -> np.ndarray:
    """Another network of the same size: the kernels of convolutions upside down."""
    return initializer[..., ::-1, ::-1].copy() if initializer.ndim == 4 else initializer


def with_masks_at(state: dict[str, np.ndarray], gain: float) -> dict[str, np.ndarray]:
    """The state dict of a Roformer, its masks at `gain`: the values of the last gated layer are scaled."""
    if gain == 1.0:
        return state
    last = [name for name in state if name.startswith("mask_estimators.0.to_freqs.")]
    deepest = max(name.split(".")[-2] for name in last)
    changed = dict(state)
    for name in last:
        if name.split(".")[-2] == deepest:
            values = state[name].copy()
            values[: len(values) // 2] *= np.float32(gain)
            changed[name] = values
    return changed
