"""FP8 plans: products of a typed fp16 graph between operands in E4M3."""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rofo.engines.contract import Tensors
from rofo.export.errors import ParityError
from rofo.export.graph.gates import MIN_TYPED_DB, Reference, typed_decibels
from rofo.export.graph.operands import in_e4m3
from rofo.export.graph.quantise import Quantiser, measured_ranges
from rofo.export.graph.search import Attempt, most_in_8_bits, noise


@dataclass(frozen=True)
class Fp8:
    """Which products of a typed graph are in E4M3, and how they are written."""

    quantiser: Quantiser
    names: tuple[str, ...]

    @property
    def kept(self) -> tuple[str, ...]:
        """Those that could be and are not."""
        return tuple(name for name in self.quantiser.names if name not in self.names)

    def write(self, graph: Path) -> Path:
        """The same network's typed graph, for any batch, with these products in E4M3: beside it."""
        return _written(replace(self.quantiser, path=graph), self.names)


def choose_fp8(
    graph: Path, name: str, chunks: Sequence[Tensors], wanted: Reference | None, stage: Callable[[str], None]
) -> Fp8:
    """As many products of the typed fp16 `graph` for one chunk as pass the gate; all, without a reference.

    `chunks` are what it is calibrated on. Raises ParityError where no choice passes, EngineLoadError without
    OpenVINO.
    """
    quantiser = Quantiser(graph, measured_ranges(graph, chunks), in_e4m3)
    names = quantiser.names
    if not names:
        raise ParityError(f"{name}: no product that FP8 is for; nothing was written, try --precision fp16")
    if wanted is None:
        return Fp8(quantiser, names)

    rest = noise(typed_decibels(graph, wanted))

    def tried(some: Collection[str]) -> Attempt[Fp8]:
        decibels = typed_decibels(_written(quantiser, some), wanted)
        passes = all(found >= case.least for found, case in zip(decibels, wanted.cases, strict=True))
        return Attempt(decibels, Fp8(quantiser, tuple(some)) if passes else None)

    def noise_of(some: Collection[str], case: int) -> float:
        return float(noise(typed_decibels(_written(quantiser, some), wanted.only(case)))[0])

    made = most_in_8_bits(names, wanted, tried=tried, noise_of=noise_of, rest=rest, stage=stage)
    if made is None:
        raise ParityError(
            f"{name}: no choice of products in FP8 passes the gate of {MIN_TYPED_DB:.0f} dB; nothing was "
            "written, try --precision fp16, or --calibrate with the music it is for"
        )
    return made


def _written(quantiser: Quantiser, names: Collection[str]) -> Path:
    folder = quantiser.path.parent / "fp8"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    quantiser.write(folder / quantiser.path.name, names)
    return folder / quantiser.path.name
