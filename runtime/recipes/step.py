"""What a step is, and the signals it makes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rofo.engines.contract import Engine
from rofo.errors import EngineOutputError, UsageError
from rofo.footprint import Footprint
from rofo.manifest import Manifest
from rofo.recipes.spool import Spool
from rofo.song import Block, Estimator, Floats
from rofo.watch import Watch

MIX = "mix"


@dataclass(frozen=True)
class Facts:
    """What a step must know of an engine, which may be a mixer or a recipe: these have no `manifest`."""

    name: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    residual: str | None
    manifest: Manifest | None

    def check_scheme(self, scheme: str | None, overlap: float | None, shifts: int) -> None:
        """Raise UsageError unless the engine can be run so."""
        if self.manifest is not None:
            self.manifest.scheme(scheme, overlap, shifts)
        elif (scheme, overlap, shifts) != (None, None, 0):
            raise UsageError(
                f"{self.name} is several engines with their own; leave scheme, overlap and shifts out"
            )


class Model(Protocol):
    """An engine that can be run; `ahead` is the share of its work before the first estimate comes, `seeds` is
    how many it needs, from the one on that it is given."""

    manifest: Any
    normalize: bool
    ahead: float
    seeds: int
    footprint: Footprint
    identity: str
    engines: tuple[Engine, ...]

    def estimator(
        self, scheme: str | None, overlap: float | None, shifts: int = 0, seed: int = 0
    ) -> Estimator:
        """What separates with this scheme and overlap, None for the engine's own. Raises UsageError."""
        ...

    def close(self) -> None:
        """Release all engines. May be called twice."""
        ...


@dataclass
class Seeds:
    """Seeds from `first` on, so that what is random is drawn anew for every run of a recipe, and is the same
    whenever the recipe is run. `taken` is how many were given."""

    first: int = 0
    taken: int = 0
    _by_run: dict[str, int] = field(default_factory=dict)

    def of(self, run: str, model: Model) -> int:
        """The first of the seeds that a run of a model has, by its name."""
        if run not in self._by_run:
            self._by_run[run] = self.first + self.taken
            self.taken += model.seeds
        return self._by_run[run]


@dataclass(frozen=True)
class Settings:
    """What the steps of a recipe are made for: its rate and channels, its engines, the caller's choice of
    scheme, overlap and shifts for runs that leave them open, and the seeds of all runs."""

    sample_rate: int
    channels: int
    models: Mapping[str, Model]
    scheme: str | None = None
    overlap: float | None = None
    shifts: int = 0
    seeds: Seeds = field(default_factory=Seeds)


# One reading of a signal in the samples' order, or where a node needs the whole song, its spool.
Signal = Iterable[Block]
Stream = Callable[[Sequence[Any], Watch], Iterator[Block]]


@dataclass(frozen=True)
class Node:
    """One signal, blocks (..., n), made of others sample for sample as they come.

    `stream` is given the inputs: iterables of blocks, or Spools where `whole`, which may be read again and
    again. `run` tells that it runs an engine.
    """

    make: str
    inputs: tuple[str, ...]
    stream: Stream
    whole: bool = False
    run: bool = False


class Step(Protocol):
    """A step as the recipe has it: a frozen dataclass whose fields are its keys there.

    What a key can hold follows from the field's type, see rofo.recipes.read.
    """

    @property
    def make(self) -> tuple[str, ...]:
        """The names of the signals it makes."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the signals it needs."""
        ...

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """What is wrong, as pairs of key and words. That an engine is None, missing, is told elsewhere."""
        ...

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """The signals: those of `make`, and others on the way with names of their own."""
        ...


def one_signal(make: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The problem of a step that makes one signal and names several, or none."""
    if len(make) != 1:
        yield "make", f"makes one signal, and {len(make)} are named"


def lock_step(streams: Sequence[Iterable[Block]]) -> Iterator[tuple[int | None, list[Floats]]]:
    """The same samples of every stream, as many at a time as all have ready."""
    sources = [iter(stream) for stream in streams]
    heads = [_following(source) for source in sources]
    while all(block.shape[-1] for _, block in heads):
        ready = min(block.shape[-1] for _, block in heads)
        yield heads[0][0], [block[..., :ready] for _, block in heads]
        heads = [
            (number, block[..., ready:]) if block.shape[-1] > ready else _following(source)
            for (number, block), source in zip(heads, sources, strict=True)
        ]
    if any(block.shape[-1] for _, block in heads):
        raise EngineOutputError("a recipe's signals are not of one length; report this")


def _following(stream: Iterator[Block]) -> Block:
    """The next block that holds samples; an empty one at the end of the stream."""
    return next((block for block in stream if block[1].shape[-1]), (None, np.zeros(0, np.float32)))


def copies(stream: Iterable[Block], count: int) -> list[Iterator[Block]]:
    """A stream as several, which are read in lock-step: a block is dropped when the last has read it.

    itertools.tee drops 57 of them at a time, which is 30 MB of a stereo file's blocks.
    """
    source, waiting = iter(stream), [deque[Block]() for _ in range(count)]

    def copy(own: deque[Block]) -> Iterator[Block]:
        while True:
            if not own:
                block = next(source, None)
                if block is None:
                    return
                for each in waiting:
                    each.append(block)
            yield own.popleft()

    return [copy(own) for own in waiting]


def elementwise(make: str, inputs: tuple[str, ...], function: Callable[[list[Floats]], Floats]) -> Node:
    """A node whose samples depend on those of the inputs at the same time only."""

    def stream(signals: Sequence[Signal], watch: Watch) -> Iterator[Block]:
        for number, blocks in lock_step(signals):
            yield number, function(blocks)

    return Node(make, inputs, stream)


def chosen(make: str, inputs: tuple[str, ...], choose: Callable[[list[Spool], int | None], Any]) -> Node:
    """A node that takes rows (channels, n) of one input or another: `choose` says for a song, from the whole
    of all inputs, the place of the input for every channel, or one for all."""

    def stream(spools: Sequence[Spool], watch: Watch) -> Iterator[Block]:
        for number in spools[0].songs:
            place = np.atleast_1d(choose(list(spools), number))
            for blocks in zip(*(spool.read(number) for spool in spools), strict=True):
                rows = [blocks[place[min(i, place.size - 1)]][i] for i in range(blocks[0].shape[0])]
                yield number, np.stack(rows)

    return Node(make, inputs, stream, whole=True)
