"""STFT of a chunk and its inverse, as torch.stft and torch.istft compute them, on numpy float32."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rofo.manifest import Stft

Floats = NDArray[np.float32]
Job = Callable[[], None]
Share = Callable[[Iterable[Job]], None]
Padding = Literal["reflect", "constant"]

# Frames that one job transforms. Of 32, 64, 128 and 256 all are within 5 %: fewer would transform more frames
# twice on the way back, more would leave less to share.
_FRAMES = 128


def in_turn(jobs: Iterable[Job]) -> None:
    """Do jobs one after the other."""
    for job in jobs:
        job()


class Spectrogram:
    """Transforms chunks of exactly `samples` samples; immutable, so threads may share it.

    The work is cut into jobs that depend on no other, always the same ones: whoever does them, `share`, may
    do so on any number of threads, and the result is the same, bit for bit.
    """

    def __init__(self, stft: Stft, samples: int) -> None:
        self.stft, self.samples = stft, samples
        self.frames = stft.frames(samples)
        n_fft, hop = stft.n_fft, stft.hop_length
        self._extension = stft.extension(samples)
        # Of the chunk, or of what comes back, counted from the first frame.
        self._begin = n_fft // 2 + (0 if stft.border_kept else self._extension[0])
        hann = np.hanning(n_fft + 1)[:-1].astype(np.float32)
        window = hann if stft.window == "hann" else np.ones_like(hann)
        scale = np.float32(stft.n_fft**-0.5 if stft.normalized else 1.0)
        if stft.window_normalized:
            scale = np.float32(np.sum(np.square(window, dtype=np.float64)) ** -0.5)
        # numpy transforms in float32 only where it has a factor to multiply by, here 1 / n_fft; without one
        # it takes float64, which takes 4 times as long (numpy 2.4).
        self._analysis = (window * scale / np.float64(np.float32(1 / n_fft))).astype(np.float32)
        self._synthesis = window / scale
        # Dropped frames come back as zeros, and count in the overlapped squared windows all the same.
        squares = np.broadcast_to(window**2, (self.frames + 2 * stft.dropped_frames, n_fft))
        hops = range(self._begin // hop, -(-(self._begin + samples) // hop))
        gain = np.empty(samples, np.float32)
        self._keep(hops, self._overlap_added(squares, 0, hops), gain)
        self._gain = np.reciprocal(gain)
        self._parts = [hops[i : i + _FRAMES] for i in range(0, len(hops), _FRAMES)]

    def forward(self, chunk: Floats, into: Floats | None = None, share: Share = in_turn) -> Floats:
        """(..., samples) -> (..., frames, bins, 2), `into` that where it is given: re, im."""
        stft, half = self.stft, self.stft.n_fft // 2
        if into is None:
            into = np.empty((*chunk.shape[:-1], self.frames, stft.bins, 2), np.float32)
        if any(self._extension):
            mode: Padding = "reflect" if stft.border and not stft.border_kept else "constant"
            chunk = _padded(chunk, *self._extension, mode=mode)
        framed = sliding_window_view(_padded(chunk, half, half, mode=stft.padding), stft.n_fft, axis=-1)
        first = stft.dropped_frames * stft.hop_length
        frames = framed[..., first :: stft.hop_length, :]
        starts = range(0, self.frames, _FRAMES)
        parts = [slice(start, min(start + _FRAMES, self.frames)) for start in starts]
        rows = np.ndindex(chunk.shape[:-1])
        share(partial(self._transform, frames[row][part], into[row][part]) for row in rows for part in parts)
        return into

    def inverse(self, spectrum: Floats, share: Share = in_turn) -> Floats:
        """(..., frames, bins, 2) -> (..., samples): overlapped frames over the overlapped squared window."""
        samples = np.empty((*spectrum.shape[:-3], self.samples), np.float32)
        rows = np.ndindex(samples.shape[:-1])
        share(
            partial(self._invert, spectrum[row], part, samples[row]) for row in rows for part in self._parts
        )
        return samples

    def _transform(self, frames: Floats, into: Floats) -> None:
        """Frames (n, n_fft) into their spectra (n, bins, 2)."""
        whole = into if self.stft.top_bin and into.flags.c_contiguous else None
        out: Any = None if whole is None else whole.view(np.complex64)[..., 0]
        spectrum = np.fft.rfft(frames * self._analysis, axis=-1, norm="forward", out=out)
        if whole is None:
            into[...] = spectrum.view(np.float32).reshape(*spectrum.shape, 2)[:, : self.stft.bins]

    def _invert(self, spectrum: Floats, hops: range, samples: Floats) -> None:
        """Hops of a row, from the spectra (frames, bins, 2) that reach into them, to where they belong.

        Those at its edges are transformed for the part before or after as well.
        """
        n_fft, hop, dropped = self.stft.n_fft, self.stft.hop_length, self.stft.dropped_frames
        begin = max(0, hops.start - dropped - (n_fft - 1) // hop)
        reaching = np.ascontiguousarray(spectrum[begin : max(0, hops.stop - dropped)]).view(np.complex64)
        frames = np.fft.irfft(reaching[..., 0], n=n_fft, axis=-1).astype(np.float32, copy=False)
        frames *= self._synthesis
        kept = self._keep(hops, self._overlap_added(frames, begin + dropped, hops), samples)
        samples[kept] *= self._gain[kept]

    def _overlap_added(self, frames: Floats, first: int, hops: range) -> Floats:
        """Frames (n, n_fft), of which `first` is the number of the first -> the samples of some hops.

        A frame is cut into hops, so that one addition serves all frames: 5 additions instead of 801.
        """
        n_fft, hop, end = self.stft.n_fft, self.stft.hop_length, first + len(frames)
        total = np.zeros((len(hops), hop), np.float32)
        for i in range(-(-n_fft // hop)):
            begin, stop = max(first, hops.start - i), min(end, hops.stop - i)
            if begin < stop:
                part = frames[begin - first : stop - first, i * hop : (i + 1) * hop]
                total[begin + i - hops.start : stop + i - hops.start, : part.shape[1]] += part
        return total.reshape(-1)

    def _keep(self, hops: range, found: Floats, samples: Floats) -> slice:
        """Put what was found of hops into a chunk's samples, what lies outside cut off -> the samples put."""
        start = hops.start * self.stft.hop_length - self._begin
        kept = slice(max(0, start), min(self.samples, start + len(found)))
        samples[kept] = found[kept.start - start : kept.stop - start]
        return kept


def _padded(samples: Floats, before: int, after: int, mode: Padding = "reflect") -> Floats:
    """(..., n) with so many samples more at its ends."""
    return np.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(before, after)], mode=mode)
