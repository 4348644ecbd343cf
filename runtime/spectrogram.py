"""STFT of a chunk and its inverse, as torch.stft and torch.istft compute them, on numpy float32."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rofo.manifest import Stft

Floats = NDArray[np.float32]


class Spectrogram:
    """Transforms chunks of exactly `samples` samples; immutable, so threads may share it.

    Frames are centred: the chunk is extended by n_fft / 2 reflected samples on both sides.
    """

    def __init__(self, stft: Stft, samples: int) -> None:
        self.stft, self.samples = stft, samples
        self.frames = stft.frames(samples)
        window = np.hanning(stft.n_fft + 1)[:-1].astype(np.float32)
        scale = np.float32(stft.n_fft**-0.5 if stft.normalized else 1.0)
        self._analysis, self._synthesis = window * scale, window / scale
        squares = np.broadcast_to(window**2, (self.frames, stft.n_fft))
        self._gain = np.reciprocal(self._overlap_add(squares))

    def forward(self, chunk: Floats) -> Floats:
        """(..., samples) -> (..., frames, bins, 2): real and imaginary part last."""
        half = self.stft.n_fft // 2
        padded = np.pad(chunk, [(0, 0)] * (chunk.ndim - 1) + [(half, half)], mode="reflect")
        frames = sliding_window_view(padded, self.stft.n_fft, axis=-1)[..., :: self.stft.hop_length, :]
        spectrum = np.fft.rfft(frames * self._analysis, axis=-1).astype(np.complex64, copy=False)
        return spectrum[..., None].view(np.float32)

    def inverse(self, spectrum: Floats) -> Floats:
        """(..., frames, bins, 2) -> (..., samples): overlapped frames over the overlapped squared window."""
        bins = np.ascontiguousarray(spectrum).view(np.complex64)[..., 0]
        frames = np.fft.irfft(bins, n=self.stft.n_fft, axis=-1).astype(np.float32, copy=False)
        return self._overlap_add(frames * self._synthesis) * self._gain

    def _overlap_add(self, frames: Floats) -> Floats:
        """(..., frames, n_fft) -> (..., samples), the centring cut off.

        A frame is cut into hops, so that one addition serves all frames: 5 additions instead of 801.
        """
        n_fft, hop = self.stft.n_fft, self.stft.hop_length
        hops = -(-n_fft // hop)
        total = np.zeros((*frames.shape[:-2], self.frames + hops - 1, hop), np.float32)
        for i in range(hops):
            part = frames[..., i * hop : (i + 1) * hop]
            total[..., i : i + self.frames, : part.shape[-1]] += part
        flat = total.reshape(*total.shape[:-2], -1)
        return flat[..., n_fft // 2 : n_fft // 2 + self.samples]
