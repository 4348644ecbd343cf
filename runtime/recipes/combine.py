"""The step `combine`: several signals as one, sample by sample or bin by bin.

    make = "vocals" ; combine = "max" ; on = ["v1", "v2"] ; domain = "fft"

The combinations are those of audio-separator's ensembler, whose spectra are librosa's: n_fft 2048, hop 1024,
periodic Hann window, frames centred over zeros. Its `uvr_max_spec` and `uvr_min_spec` are max and min
of spectra too, without the last samples beyond a multiple of the hop.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from rofo.recipes.step import Facts, Node, Settings, Signal, elementwise, lock_step, one_signal
from rofo.song import Block, Floats
from rofo.watch import Watch

N_FFT, HOP = 2048, 1024
FRAMES = 64  # at a time: always the same ones, so that no sample depends on the blocks that come

Numbers = NDArray[Any]  # real or complex, (signals, ...)


def _median(numbers: Numbers, weights: Numbers) -> Numbers:
    if np.iscomplexobj(numbers):
        return _median(numbers.real, weights) + np.complex64(1j) * _median(numbers.imag, weights)
    return np.asarray(np.median(numbers, axis=0))


def _average(numbers: Numbers, weights: Numbers) -> Numbers:
    total = weights[0] * numbers[0]  # in a fixed order, as no matrix product promises
    for weight, part in zip(weights[1:], numbers[1:], strict=True):
        total = total + weight * part
    return np.asarray(total / weights.sum())


def _smallest(numbers: Numbers, weights: Numbers) -> Numbers:
    return _taken(numbers, np.argmin(np.abs(numbers), axis=0))


def _largest(numbers: Numbers, weights: Numbers) -> Numbers:
    return _taken(numbers, np.argmax(np.abs(numbers), axis=0))


def _taken(numbers: Numbers, places: NDArray[np.intp]) -> Numbers:
    return np.asarray(np.take_along_axis(numbers, places[None], axis=0)[0])


# Of a spectrum the median of real and imaginary parts; the least and the largest magnitude, as it is.
COMBINATIONS: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {
    "average": _average,
    "median": _median,
    "min": _smallest,
    "max": _largest,
}
DOMAINS = ("wave", "fft")


@dataclass(frozen=True)
class Combine:
    """`weights`, one for every signal, are for the average; by default all weigh the same."""

    make: tuple[str, ...]
    combine: str
    on: tuple[str, ...]
    domain: str = "wave"
    weights: tuple[float, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return self.on

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        yield from one_signal(self.make)
        if self.combine not in COMBINATIONS:
            yield "combine", f"{self.combine!r} is none of {', '.join(COMBINATIONS)}"
        if self.domain not in DOMAINS:
            yield "domain", f"{self.domain!r} is none of {', '.join(DOMAINS)}"
        if len(self.on) < 2:
            yield "on", "names fewer than two signals"
        if self.weights and self.combine != "average":
            yield "weights", f"are for the average, not for {self.combine}"
        elif self.weights and (len(self.weights) != len(self.on) or sum(self.weights) == 0):
            yield "weights", f"are not {len(self.on)} numbers whose sum is not 0"

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""
        weights = np.array(self.weights or [1] * len(self.on), np.float32)

        def function(parts: Numbers) -> Numbers:
            return COMBINATIONS[self.combine](parts, weights)

        def stream(signals: Sequence[Signal], watch: Watch) -> Iterator[Block]:
            for number, song in groupby(lock_step(signals), itemgetter(0)):
                for block in _combined_spectra((np.stack(blocks) for _, blocks in song), function):
                    yield number, block

        if self.domain == "fft":
            yield Node(self.make[0], self.on, stream)
        else:
            yield elementwise(self.make[0], self.on, lambda blocks: function(np.stack(blocks)))


def _combined_spectra(blocks: Iterator[Floats], function: Callable[[Numbers], Numbers]) -> Iterator[Floats]:
    """Blocks (signals, channels, n) of a song -> blocks (channels, n) of what `function` makes of spectra."""
    held: Floats | None = None  # from the first sample of the next frame on
    joined = _Joined()
    samples = 0
    for block in blocks:
        if held is None:
            held = np.zeros((*block.shape[:-1], N_FFT // 2), np.float32)
        held, samples = np.concatenate((held, block), axis=-1), samples + block.shape[-1]
        while held.shape[-1] >= N_FFT + (FRAMES - 1) * HOP:
            yield joined.add(_frames(held, FRAMES, function))
            held = held[..., FRAMES * HOP :]
    if held is None:
        return
    padded = np.concatenate((held, np.zeros((*held.shape[:-1], N_FFT // 2), np.float32)), axis=-1)
    rest = (padded.shape[-1] - N_FFT) // HOP + 1
    yield joined.add(_frames(padded, rest, function), until=samples)


def _frames(held: Floats, count: int, function: Callable[[Numbers], Numbers]) -> Floats:
    """The first `count` frames, combined: (channels, count, n_fft)."""
    framed = sliding_window_view(held, N_FFT, axis=-1)[..., : count * HOP : HOP, :]
    spectra = np.fft.rfft(framed * _WINDOW, axis=-1).astype(np.complex64, copy=False)
    return np.fft.irfft(function(spectra), n=N_FFT, axis=-1).astype(np.float32, copy=False)


class _Joined:
    """Frames over each other, over the sum of their squared windows."""

    def __init__(self) -> None:
        self._tail: Floats | None = None  # (channels, N_FFT - HOP) of the frames so far
        self._weight = np.zeros(N_FFT - HOP, np.float32)
        self._given = -(N_FFT // 2)  # samples, those before the song counted in

    def add(self, frames: Floats, until: int | None = None) -> Floats:
        """Frames (channels, count, n_fft) -> the samples (channels, n) they finish, all up to `until`."""
        channels, count, _ = frames.shape
        total = np.zeros((channels, (count - 1) * HOP + N_FFT), np.float32)
        weight = np.zeros(total.shape[-1], np.float32)
        if self._tail is not None:
            total[:, : N_FFT - HOP] = self._tail
        weight[: N_FFT - HOP] = self._weight
        for i in range(count):
            total[:, i * HOP : i * HOP + N_FFT] += frames[:, i] * _WINDOW
            weight[i * HOP : i * HOP + N_FFT] += _WINDOW**2
        done = count * HOP if until is None else until - self._given
        begin = max(0, -self._given)
        self._tail, self._weight = total[:, count * HOP :], weight[count * HOP :]
        self._given += done
        kept, divisor = total[:, begin:done], weight[begin:done]
        return np.divide(kept, divisor, out=np.zeros_like(kept), where=divisor > 0)


_WINDOW: Floats = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
