"""Cutting a song into chunks and joining what comes back, both in one pass with constant memory.

The scheme `fade` is that of ZFTurbo's Music-Source-Separation-Training (`demix`, generic mode) as it acts
at batch size 1: the song is extended by `border` reflected samples on both sides, unless it is no longer
than two borders; chunks start every `step` samples; a window of ones with linear fades of chunk // 10, exact
zeros at both ends, weighs each chunk, without fade-in on the first and without fade-out on the last; the sum
of weighted chunks is divided by the sum of weights, and is 0 where no chunk has any weight.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ChunkPlan:
    """Chunk length, step between chunks and what follows from them, in samples."""

    chunk: int
    step: int

    @classmethod
    def with_overlap(cls, chunk: int, overlap: float) -> "ChunkPlan":
        """`overlap` is the fraction of a chunk shared with the next one, 0 <= overlap < 1."""
        return cls(chunk, max(1, round(chunk * (1 - overlap))))

    @property
    def border(self) -> int:
        """Reflected samples put before and after a song."""
        return self.chunk - self.step

    @property
    def fade(self) -> int:
        """Length of the window's linear flanks."""
        return self.chunk // 10

    def borders(self, length: int) -> int:
        """The border that a song of `length` samples really gets."""
        return self.border if length > 2 * self.border else 0

    def chunks(self, length: int) -> int:
        """How many chunks a song of `length` samples takes."""
        return -(-(length + self.borders(length)) // self.step)

    def window(self, *, first: bool, last: bool) -> Floats:
        """The weights of a chunk, (chunk,)."""
        window = np.ones(self.chunk, np.float32)
        flank = np.linspace(0, 1, self.fade, dtype=np.float32)
        if not last or first:
            window[self.chunk - self.fade :] = flank[::-1]
        if not first:
            window[: self.fade] = flank
        return window


@dataclass(frozen=True)
class Piece:
    """The chunk number `index` of a song, beginning at its sample `start`, below 0 in the border.

    `samples` (channels, chunk), of which the first `length` are the song (borders included) and the rest
    padding. `begin` and `end` delimit what is finished once this piece is added, relative to its start.
    """

    index: int
    start: int
    samples: Floats
    length: int
    last: bool
    begin: int
    end: int

    @property
    def first(self) -> bool:
        """Whether this is the song's first chunk."""
        return self.index == 0


def cut(blocks: Iterable[Floats], plan: ChunkPlan) -> Iterator[Piece]:
    """Cut a song, given as (channels, n) blocks of any lengths, into pieces.

    Chunks that lie wholly behind the song are left out: they would touch no sample that is kept.
    """
    source = iter(blocks)
    # One sample more than a chunk tells whether the chunk is the last; one more than that leaves
    # border + 1 samples after a step, which is what reflecting the end needs.
    buffer, ended = _fill(source, None, max(2 * plan.border + 1, max(plan.chunk, plan.step + 1) + 1))
    if buffer is None or buffer.shape[1] == 0:
        return
    border = plan.borders(buffer.shape[1])
    buffer = np.concatenate((_reflection(buffer[:, : border + 1])[:, :border], buffer), axis=1)
    start, end = 0, None
    while True:
        if not ended:
            buffer, ended = _fill(source, buffer, max(plan.chunk, plan.step + 1) + 1)
        if ended and end is None:
            end = start + buffer.shape[1]
            tail = _reflection(buffer[:, buffer.shape[1] - border - 1 :])[:, 1:] if border else buffer[:, :0]
            buffer = np.concatenate((buffer, tail), axis=1)
        if end is not None and start >= end:
            return
        yield _piece(buffer, plan, start=start, border=border, end=end)
        buffer, start = buffer[:, plan.step :], start + plan.step


def _piece(buffer: Floats, plan: ChunkPlan, *, start: int, border: int, end: int | None) -> Piece:
    samples = buffer[:, : plan.chunk]
    length = samples.shape[1]
    if length < plan.chunk:
        # Both ways of padding are the reference's; a reflection needs more song than padding.
        mode = "reflect" if length > plan.chunk // 2 else "constant"
        samples = np.pad(samples, ((0, 0), (0, plan.chunk - length)), mode=mode)  # type: ignore[call-overload]
    return Piece(
        index=start // plan.step,
        start=start - border,
        samples=samples,
        length=length,
        last=end is not None and buffer.shape[1] <= plan.step,
        begin=min(max(0, border - start), plan.step),
        end=plan.step if end is None else min(plan.step, end - start),
    )


class OverlapAdd:
    """Sums weighted chunks of shape (..., chunk) and gives out samples once no chunk can change them."""

    def __init__(self, plan: ChunkPlan) -> None:
        self._plan = plan
        self._sum: Floats | None = None
        self._weight = np.zeros(plan.chunk, np.float32)

    def add(self, piece: Piece, estimate: Floats) -> Floats:
        """Add the estimate (..., chunk) of a piece -> the samples (..., n) it finishes, in order."""
        if self._sum is None:
            self._sum = np.zeros_like(estimate)
        window = self._plan.window(first=piece.first, last=piece.last)[: piece.length]
        self._sum[..., : piece.length] += estimate[..., : piece.length] * window
        self._weight[: piece.length] += window
        done = slice(piece.begin, max(piece.begin, piece.end))
        weight = self._weight[done]
        finished = np.divide(
            self._sum[..., done], weight, out=np.zeros_like(self._sum[..., done]), where=weight > 0
        )
        for total in (self._sum, self._weight):
            total[..., : self._plan.border] = total[..., self._plan.step :]
            total[..., self._plan.border :] = 0
        return finished


def _fill(source: Iterator[Floats], buffer: Floats | None, samples: int) -> tuple[Floats, bool]:
    """Append blocks until the buffer holds `samples`; the flag tells whether the source has ended."""
    parts = [] if buffer is None else [buffer]
    held = sum(part.shape[1] for part in parts)
    while held < samples:
        block = next(source, None)
        if block is None:
            return _joined(parts), True
        parts.append(block)
        held += block.shape[1]
    return _joined(parts), False


def _joined(parts: list[Floats]) -> Floats:
    if len(parts) == 1:  # one block that is the whole song must not be copied for every chunk
        return parts[0]
    return np.concatenate(parts, axis=1) if parts else np.zeros((0, 0), np.float32)


def _reflection(samples: Floats) -> Floats:
    return samples[:, ::-1]
