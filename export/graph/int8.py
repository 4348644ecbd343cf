"""int8 engines for processors, beside the fp32 one: written, and measured where they are run."""

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rofo.engines.contract import Tensors
from rofo.errors import EngineLoadError
from rofo.export.errors import ParityError
from rofo.export.graph.gates import MIN_TYPED_DB, Reference, decibels_of, measured
from rofo.export.graph.operands import in_int8
from rofo.export.graph.quantise import Quantiser, measured_ranges
from rofo.export.graph.search import Attempt, most_in_8_bits, noise
from rofo.manifest import EngineFile, Manifest, Parity, file_sha256

Stage = Callable[[str], None]
Floats = NDArray[np.float64]
Rest = Literal["fp32", "bf16"]

# int8 is measured where it is taken by itself.
BACKEND = "openvino"
# bf16 for the rest where it takes less than half of what the gate allows.
_MIN_REST_DB = MIN_TYPED_DB + 3


@dataclass(frozen=True)
class Int8:
    """An int8 engine: its files, the graph last, its entry in the manifest, and what was measured."""

    files: tuple[Path, ...]
    entry: EngineFile
    parity: Parity


class Int8Builder:
    """An fp32 engine file at `path`, described by the only entry of `manifest`, on its way to int8.

    `chunks` are what it is calibrated on, `wanted` what it is held to. Everything is made beside `path`.
    """

    def __init__(
        self, path: Path, manifest: Manifest, chunks: Sequence[Tensors], wanted: Reference, stage: Stage
    ) -> None:
        self._path, self._manifest, self._wanted, self._stage = path, manifest, wanted, stage
        (self._entry,) = manifest.engines
        ranges = measured_ranges(path, chunks, self._entry.batch)
        self._quantiser = Quantiser(path, ranges, in_int8)
        self._rest, self._rest_noise = self._measured_rest()

    def build(self) -> Int8:
        """Raises ParityError where no choice passes the gate, EngineLoadError without OpenVINO."""
        names = self._quantiser.names
        if not names:
            raise ParityError(
                f"{self._path.name}: no product that int8 is for; nothing was written, leave --quantize out"
            )
        made = most_in_8_bits(
            names,
            self._wanted,
            tried=self._tried,
            noise_of=self._noise_of,
            rest=self._rest_noise,
            stage=self._stage,
        )
        if made is not None:
            return made
        raise ParityError(
            f"{self._path.name}: no choice of products in int8 passes the gate of {MIN_TYPED_DB:.0f} dB; "
            "nothing was written, leave --quantize out or give --calibrate the music it is for"
        )

    def _noise_of(self, names: Collection[str], case: int) -> float:
        """That with these products in int8, in one of the cases."""
        files, entry = self._written(names)
        manifest = replace(self._manifest, engines=(entry,))
        found = decibels_of(files[-1], manifest, BACKEND, "int8", self._wanted.only(case))
        return float(noise(np.array(found))[0])

    def _tried(self, names: Collection[str]) -> Attempt[Int8]:
        """An engine with these products in int8."""
        files, entry = self._written(names)
        manifest = replace(self._manifest, engines=(entry,))
        found, silent = measured(files[-1], manifest, BACKEND, "int8", self._wanted)
        decibels = np.array(found)
        least = np.array([case.least for case in self._wanted.cases])
        if (decibels < least).any() or (self._wanted.keeps_silence and not silent):
            return Attempt(decibels, None)
        parity = Parity(BACKEND, "int8", float(decibels[least == MIN_TYPED_DB].min()), keeps_silence=silent)
        return Attempt(decibels, Int8(files, entry, parity))

    def _written(self, names: Collection[str]) -> tuple[tuple[Path, ...], EngineFile]:
        """The files of the engine with these products in int8, the graph last, and its entry."""
        folder = self._path.parent / "int8"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        file = folder / f"{self._path.stem}.int8.onnx"
        data = self._quantiser.write(file, names)
        entry = replace(
            self._entry,
            file=file.name,
            precision="int8",
            sha256=file_sha256(file),
            data=data.name if data else None,
            data_sha256=file_sha256(data) if data else None,
            rest=self._rest,
            kept=tuple(name for name in self._quantiser.names if name not in names),
        )
        return (*([data] if data else []), file), entry

    def _measured_rest(self) -> tuple[Rest, Floats]:
        """The type of what is not in int8, and what it alone costs."""
        silent = np.zeros(len(self._wanted.cases))
        try:
            decibels = np.array(decibels_of(self._path, self._manifest, BACKEND, "bf16", self._wanted))
        except EngineLoadError:  # this processor has none
            return "fp32", silent
        return ("bf16", noise(decibels)) if decibels.min() >= _MIN_REST_DB else ("fp32", silent)
