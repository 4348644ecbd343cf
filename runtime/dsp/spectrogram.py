"""STFT of a chunk and its inverse, as torch.stft and torch.istft compute them, on numpy float32."""

from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rofo.manifest import Stft

Floats = NDArray[np.float32]


class Spectrogram:
    """Transforms chunks of exactly `samples` samples; immutable, so threads may share it."""

    def __init__(self, stft: Stft, samples: int) -> None:
        self.stft, self.samples = stft, samples
        self.frames = stft.frames(samples)
        self._extension = stft.extension(samples)
        self._all_frames = self.frames + 2 * stft.dropped_frames
        hann = np.hanning(stft.n_fft + 1)[:-1].astype(np.float32)
        window = hann if stft.window == "hann" else np.ones_like(hann)
        scale = np.float32(stft.n_fft**-0.5 if stft.normalized else 1.0)
        if stft.window_normalized:
            scale = np.float32(np.sum(np.square(window, dtype=np.float64)) ** -0.5)
        self._analysis, self._synthesis = window * scale, window / scale
        # Dropped frames come back as zeros, and count in the overlapped squared windows all the same.
        squares = np.broadcast_to(window**2, (self._all_frames, stft.n_fft))
        self._gain = np.reciprocal(self._overlap_add(squares, 0))

    def forward(self, chunk: Floats) -> Floats:
        """(..., samples) -> (..., frames, bins, 2): real and imaginary part last."""
        stft, half = self.stft, self.stft.n_fft // 2
        if any(self._extension):
            chunk = _padded(chunk, *self._extension, mode="reflect" if stft.border else "constant")
        framed = sliding_window_view(_padded(chunk, half, half, mode=stft.padding), stft.n_fft, axis=-1)
        first = stft.dropped_frames * stft.hop_length
        frames = framed[..., first :: stft.hop_length, :][..., : self.frames, :]
        spectrum = np.fft.rfft(frames * self._analysis, axis=-1).astype(np.complex64, copy=False)
        # A mono chunk broadcast to two channels leaves another order in memory.
        floats = np.ascontiguousarray(spectrum).view(np.float32)
        return floats.reshape(*spectrum.shape, 2)[..., : stft.bins, :]

    def inverse(self, spectrum: Floats) -> Floats:
        """(..., frames, bins, 2) -> (..., samples): overlapped frames over the overlapped squared window."""
        bins = np.ascontiguousarray(spectrum).view(np.complex64)[..., 0]
        frames = np.fft.irfft(bins, n=self.stft.n_fft, axis=-1).astype(np.float32, copy=False)
        return self._overlap_add(frames * self._synthesis, self.stft.dropped_frames) * self._gain

    def _overlap_add(self, frames: Floats, first: int) -> Floats:
        """(..., frames, n_fft) from frame number `first` on -> (..., samples), all padding cut off.

        A frame is cut into hops, so that one addition serves all frames: 5 additions instead of 801.
        """
        n_fft, hop = self.stft.n_fft, self.stft.hop_length
        hops, count = -(-n_fft // hop), frames.shape[-2]
        total = np.zeros((*frames.shape[:-2], self._all_frames + hops - 1, hop), np.float32)
        for i in range(hops):
            part = frames[..., i * hop : (i + 1) * hop]
            total[..., first + i : first + i + count, : part.shape[-1]] += part
        flat = total.reshape(*total.shape[:-2], -1)
        begin = n_fft // 2 + self._extension[0]
        return flat[..., begin : begin + self.samples]


def _padded(
    samples: Floats, before: int, after: int, mode: Literal["reflect", "constant"] = "reflect"
) -> Floats:
    """(..., n) with so many samples more at its ends."""
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(before, after)], mode=mode)
