"""The step `run`: an engine on a signal.

    make = ["drums", "bass"] ; run = "demucs" ; on = "mix" ; stem = ["drums", "bass"]
    overlap = 0.6 ; scheme = "outer" ; augment = ["plain", "invert"]

An engine with another rate than the recipe's runs at its own: the signal is resampled there and its stems
back. What leaves scheme, overlap and shifts open takes the caller's, or the engine's own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rofo.dsp import SCHEMES
from rofo.errors import UsageError
from rofo.rates import OwnRate
from rofo.recipes.step import Facts, Model, Node, Settings, elementwise
from rofo.song import Block, Floats
from rofo.watch import Watch

# What is done to a signal before an engine hears it, and to its stems (stems, channels, n) after: all of
# them are undone by being done again.
AUGMENTS: Mapping[str, Callable[[Floats], Floats]] = {
    "plain": lambda samples: samples,
    "invert": lambda samples: -samples,  # polarity
    "swap": lambda samples: samples[..., ::-1, :],  # left and right
}


@dataclass(frozen=True)
class Run:
    """The stems of an engine, or its residual, which is the signal less all its stems; by name in any case.

    With several `augment` each is a run of its own, and their stems are averaged.
    """

    make: tuple[str, ...]
    run: str
    on: str
    stem: tuple[str, ...]
    overlap: float | None = None
    scheme: str | None = None
    shifts: int = 0
    augment: tuple[str, ...] = ("plain",)

    @property
    def inputs(self) -> tuple[str, ...]:
        """As in Step."""
        return (self.on,)

    @property
    def is_open(self) -> bool:
        """Whether scheme, overlap and shifts are left to the caller."""
        return (self.scheme, self.overlap, self.shifts) == (None, None, 0)

    def problems(self, engines: Mapping[str, Facts | None], channels: int) -> Iterator[tuple[str, str]]:
        """As in Step."""
        if len(self.make) != len(self.stem):
            yield "stem", f"names {len(self.stem)} stems for {len(self.make)} signals"
        for name in self.augment:
            if name not in AUGMENTS:
                yield "augment", f"{name!r} is none of {', '.join(AUGMENTS)}"
        if not self.augment or len(set(self.augment)) < len(self.augment):
            yield "augment", "names one augmentation or more, each once"
        if self.shifts < 0:
            yield "shifts", f"is {self.shifts}, less than 0"
        if self.run not in engines:
            yield "run", f"there is no engine {self.run!r}; [engines] has {', '.join(engines) or 'none'}"
        if (engine := engines.get(self.run)) is not None:
            yield from self._engine_problems(engine)
            return
        # Without the engine: what no engine takes.
        if self.scheme not in (None, *SCHEMES):
            yield "scheme", f"is {self.scheme!r}, not one of {', '.join(SCHEMES)}"
        if self.overlap is not None and not 0 <= self.overlap < 1:
            yield "overlap", f"is {self.overlap}, not 0 or more and below 1"

    def _engine_problems(self, engine: Facts) -> Iterator[tuple[str, str]]:
        known = _stems(engine)
        for stem in self.stem:
            if stem.lower() not in map(str.lower, known):
                yield "stem", f"engine {self.run} has no stem {stem!r}; it has {', '.join(known)}"
        try:
            engine.check_scheme(self.scheme, self.overlap, self.shifts)
        except UsageError as error:
            said = [key for key in ("scheme", "overlap", "shifts") if getattr(self, key)]
            yield said[0] if said else "run", str(error)

    def nodes(self, settings: Settings) -> Iterator[Node]:
        """As in Step."""
        model = settings.models[self.run]
        own = settings if self.is_open else self
        cut = own.scheme, own.overlap, own.shifts
        engine = next(name for name, other in settings.models.items() if other is model)
        runs = []
        for augment in self.augment:
            # Runs that would be the same have one name, and the plan keeps one of them.
            name = f"{engine}({self.on}), {cut}, {augment}"
            estimator = model.estimator(*cut, settings.seeds.of(name, model))
            stream = partial(_estimates, model, estimator, AUGMENTS[augment], settings.sample_rate)
            yield Node(name, self.inputs, stream, whole=_needs_whole(model), run=True)
            runs.append(name)
        stems = [stem.lower() for stem in _stems(model.manifest)]
        for name, stem in zip(self.make, self.stem, strict=True):
            place = stems.index(stem.lower())
            if place == len(model.manifest.stems):
                yield elementwise(name, (*runs, self.on), _mean_residual)
            else:
                yield elementwise(name, tuple(runs), partial(_mean_stem, place))


def _stems(engine: Facts) -> tuple[str, ...]:
    return (*engine.stems, *([engine.residual] if engine.residual else []))


def _needs_whole(model: Model) -> bool:
    return model.normalize or model.ahead > 0


def _estimates(
    model: Model, estimator: Any, augment: Callable[[Floats], Floats], rate: int, inputs: Sequence[Any],
    watch: Watch,
) -> Iterator[Block]:  # fmt: skip
    """The stems (stems, channels, n) of the one input: blocks, or a spool for what needs the whole song."""

    def read(number: int | None) -> Iterable[Floats]:
        return (augment(block) for block in inputs[0].read(number))

    blocks = inputs[0].blocks() if _needs_whole(model) else inputs[0]
    own = OwnRate(
        estimator,
        len(model.manifest.stems),
        model.manifest.sample_rate,
        rate,
        read if model.normalize else None,
    )
    for number, estimate in own(((number, augment(block)) for number, block in blocks), watch.quiet()):
        yield number, augment(estimate)


def _mean_stem(place: int, runs: list[Floats]) -> Floats:
    return _mean([estimate[place] for estimate in runs])


def _mean_residual(blocks: list[Floats]) -> Floats:
    *runs, signal = blocks
    return _mean([signal - estimate.sum(axis=0) for estimate in runs])


def _mean(parts: list[Floats]) -> Floats:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total if len(parts) == 1 else total / np.float32(len(parts))
