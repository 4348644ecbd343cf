"""A plain, slow re-statement of MSST's `demix` (generic mode, batch size 1), whole song in memory.

Written from the description of the scheme for tests only; nothing here is shared with the product.
"""

from collections.abc import Callable

import numpy as np


def demix(mix: np.ndarray, model: Callable, *, chunk: int, step: int) -> np.ndarray:
    """mix (channels, samples); model maps (channels, chunk) to (stems, channels, chunk)."""
    mix = mix.astype(np.float32)
    fade, border, length = chunk // 10, chunk - step, mix.shape[1]
    ramp = np.linspace(0, 1, fade).astype(np.float32)
    base = np.ones(chunk, np.float32)
    base[-fade:] = ramp[::-1]
    base[:fade] = ramp
    bordered = length > 2 * border and border > 0
    if bordered:
        mix = np.pad(mix, ((0, 0), (border, border)), mode="reflect")
    total = mix.shape[1]
    result, counter = None, np.zeros(total, np.float32)
    i = 0
    while i < total:
        part = mix[:, i : i + chunk]
        size = part.shape[1]
        mode = "reflect" if size > chunk // 2 else "constant"
        estimate = model(np.pad(part, ((0, 0), (0, chunk - size)), mode=mode))
        window = base.copy()
        if i == 0:
            window[:fade] = 1
        elif i + step >= total:
            window[-fade:] = 1
        if result is None:
            result = np.zeros((*estimate.shape[:-1], total), np.float32)
        result[..., i : i + size] += estimate[..., :size] * window[:size]
        counter[i : i + size] += window[:size]
        i += step
    with np.errstate(invalid="ignore"):
        joined = np.nan_to_num(result / counter, nan=0.0)
    return joined[..., border:-border] if bordered else joined
