"""Several engines as one: the passes of a recipe over songs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from rofo.errors import UsageError
from rofo.footprint import together
from rofo.recipes.plan import Pass, make_passes
from rofo.recipes.run import Run
from rofo.recipes.spool import Spool
from rofo.recipes.step import MIX, Model, Seeds, Settings, Step, copies, lock_step
from rofo.song import Block, Estimator
from rofo.watch import Watch


class RecipeModel:
    """A recipe with its engines. Immutable: every estimator call keeps its own state.

    `manifest` has the facts (name, sample_rate, channels, stems, residual) of what it is as an engine; its
    stems are the signals `outputs` of `steps`. `ahead` is the share of the work before the first estimate
    comes, 0 for a recipe of one pass.
    """

    normalize = False

    def __init__(
        self, manifest: Any, steps: Sequence[Step], outputs: Sequence[str], models: Mapping[str, Model],
        identity: str, *, low_memory: bool = False,
    ) -> None:  # fmt: skip
        self.manifest, self.identity = manifest, identity
        self._steps, self._outputs, self._models = tuple(steps), tuple(outputs), dict(models)
        self._low_memory = low_memory
        # A model that two names stand for is opened once, and told once.
        own = tuple({id(model): model for model in models.values()}.values())
        self.engines = tuple(engine for model in own for engine in model.engines)
        self.footprint = together((model.footprint for model in own), low_memory=low_memory)
        seeds = Seeds()
        self.ahead = sum(part.share for part in self._passes(None, None, 0, seeds)[:-1])
        self.seeds = seeds.taken

    def estimator(
        self, scheme: str | None, overlap: float | None, shifts: int = 0, seed: int = 0
    ) -> Estimator:
        """What separates with these in the runs that leave all three open. Raises UsageError."""
        chosen = (scheme, overlap, shifts) != (None, None, 0)
        if chosen and not any(isinstance(step, Run) and step.is_open for step in self._steps):
            raise UsageError(
                f"{self.manifest.name}: every run here has its own scheme, overlap and shifts; leave them out"
            )
        return partial(self._estimates, self._passes(scheme, overlap, shifts, Seeds(seed)))

    def close(self) -> None:
        """Release all engines. May be called twice."""
        for model in self._models.values():
            model.close()

    def _passes(
        self, scheme: str | None, overlap: float | None, shifts: int, seeds: Seeds
    ) -> tuple[Pass, ...]:
        facts = self.manifest
        settings = Settings(facts.sample_rate, facts.channels, self._models, scheme, overlap, shifts, seeds)
        nodes = (node for step in self._steps for node in step.nodes(settings))
        return make_passes(nodes, self._outputs, low_memory=self._low_memory)

    def _estimates(self, passes: Sequence[Pass], blocks: Iterable[Block], watch: Watch) -> Iterator[Block]:
        channels: dict[int | None, int] = {}
        spools: dict[str, Spool] = {}
        mix: Iterable[Block] | None = self._widened(blocks, channels)
        with ExitStack() as closing:
            for part in passes[:-1]:
                made = {name: closing.enter_context(Spool()) for name in part.gives}
                for number, signals in lock_step(_streams(part, mix, spools, watch)):
                    for spool, signal in zip(made.values(), signals, strict=True):
                        spool.write(number, signal)
                    watch.advance(signals[0].shape[-1] * part.share, self.manifest.sample_rate)
                spools, mix = spools | made, None
                for name in part.frees:
                    if name in spools:
                        spools.pop(name).close()
            for number, signals in lock_step(_streams(passes[-1], mix, spools, watch)):
                stems = np.stack(signals)
                narrow = stems.shape[1] > channels[number]
                yield number, stems.mean(axis=1, keepdims=True) if narrow else stems

    def _widened(self, blocks: Iterable[Block], channels: dict[int | None, int]) -> Iterator[Block]:
        """A mono song of a stereo recipe is doubled here, not by every engine: a step may cross channels."""
        for number, block in blocks:
            channels[number] = block.shape[0]
            rows = max(self.manifest.channels, block.shape[0])
            yield number, np.broadcast_to(block, (rows, block.shape[1]))


def _streams(
    part: Pass, mix: Iterable[Block] | None, spools: Mapping[str, Spool], watch: Watch
) -> list[Iterable[Block]]:
    """What a pass gives, in lock-step: a block is dropped when the last that reads it has, and they are
    a chunk or two apart, not a song. Spools are read by each at its own pace."""
    uses = Counter(part.gives)
    for node in part.nodes:
        uses.update(() if node.whole else node.inputs)
    streams = {} if mix is None else {MIX: copies(mix, uses[MIX])}

    def taken(name: str) -> Iterable[Block]:
        return streams[name].pop() if name in streams else spools[name].blocks()

    for node in part.nodes:
        inputs = [spools[name] if node.whole else taken(name) for name in node.inputs]
        streams[node.make] = copies(node.stream(inputs, watch), uses[node.make])
    return [taken(name) for name in part.gives]
