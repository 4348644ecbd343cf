"""int8 engines for processors, beside the fp32 one: written, and measured where they are run."""

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rofo.dsp.chunk_loop import ChunkLoop
from rofo.dsp.scheme import Chunk
from rofo.engines import EngineSettings, open_engine
from rofo.engines.contract import Tensors
from rofo.errors import EngineLoadError, UsageError
from rofo.export.calibration import Truth
from rofo.export.errors import ParityError
from rofo.export.graph.gates import (
    MAX_SDR_LOSS_DB,
    MIN_TYPED_DB,
    Reference,
    decibels_of,
    measured,
    snr_db,
)
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

    `chunks` are what it is calibrated on, `wanted` what it is held to, and so is the SDR of a `truth`.
    Everything is made beside `path`.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        chunks: Sequence[Tensors],
        wanted: Reference,
        stage: Stage,
        truth: Truth | None = None,
    ) -> None:
        self._path, self._manifest, self._wanted, self._stage = path, manifest, wanted, stage
        (self._entry,) = manifest.engines
        self._truth, self._sdr = truth, self._measured_sdr(path, manifest, "fp32", truth)
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
        files, manifest = self._written(names)
        found = decibels_of(files[-1], manifest, BACKEND, "int8", self._wanted.only(case))
        return float(noise(np.array(found))[0])

    def _tried(self, names: Collection[str]) -> Attempt[Int8]:
        """An engine with these products in int8."""
        files, manifest = self._written(names)
        found, silent = measured(files[-1], manifest, BACKEND, "int8", self._wanted)
        decibels = np.array(found)
        least = np.array([case.least for case in self._wanted.cases])
        if (decibels < least).any() or (self._wanted.keeps_silence and not silent):
            return Attempt(decibels, None)
        if not self._keeps_sdr(files[-1], manifest):
            return Attempt(decibels, None)
        parity = Parity(BACKEND, "int8", float(decibels[least == MIN_TYPED_DB].min()), keeps_silence=silent)
        return Attempt(decibels, Int8(files, manifest.engines[0], parity))

    def _written(self, names: Collection[str]) -> tuple[tuple[Path, ...], Manifest]:
        """The files of the engine with these products in int8, the graph last, and its manifest."""
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
        return (*([data] if data else []), file), replace(self._manifest, engines=(entry,))

    def _keeps_sdr(self, path: Path, manifest: Manifest) -> bool:
        kept = True
        for name, found in self._measured_sdr(path, manifest, "int8", self._truth).items():
            self._stage(f"SDR of {name}: {found:.2f} dB, {self._sdr[name]:.2f} in fp32")
            kept = kept and self._sdr[name] - found <= MAX_SDR_LOSS_DB
        return kept

    @staticmethod
    def _measured_sdr(
        path: Path, manifest: Manifest, precision: str, truth: Truth | None
    ) -> dict[str, float]:
        """By true stem, over the chunks as they come out of the engine. Raises UsageError for other stems."""
        if truth is None:
            return {}
        names = [*manifest.stems, *([manifest.residual] if manifest.residual else [])]
        if unknown := sorted(set(truth.stems) - set(names)):
            raise UsageError(
                f"{path.name} has no stem {', '.join(unknown)}; --truth takes {', '.join(names)}"
            )
        size, window = manifest.chunk.samples, np.ones(0, np.float32)
        starts = range(0, truth.mix.shape[1], size)
        chunks = (Chunk(i, at, truth.mix[:, at : at + size], window, at) for i, at in enumerate(starts))
        with closing(open_engine(path, manifest, EngineSettings(BACKEND, precision))) as engine:
            loop = ChunkLoop(engine, manifest, path.name)
            estimates = np.concatenate([estimate for _, estimate in loop(chunks)], axis=-1)
        found = dict(zip(names, [*estimates, truth.mix - estimates.sum(axis=0)], strict=False))
        return {name: snr_db(stem, found[name]) for name, stem in truth.stems.items()}

    def _measured_rest(self) -> tuple[Rest, Floats]:
        """The type of what is not in int8, and what it alone costs."""
        silent = np.zeros(len(self._wanted.cases))
        try:
            decibels = np.array(decibels_of(self._path, self._manifest, BACKEND, "bf16", self._wanted))
        except EngineLoadError:  # this processor has none
            return "fp32", silent
        return ("bf16", noise(decibels)) if decibels.min() >= _MIN_REST_DB else ("fp32", silent)
