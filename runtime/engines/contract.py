"""What an engine is to the rest of the house: its tensors, and the checks that hold a file to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rofo.errors import EngineMismatchError
from rofo.manifest import EngineFile, Manifest

Tensors = Mapping[str, NDArray[np.float32]]


class Engine(Protocol):
    """What every backend offers. `run` may be called from several threads at once.

    `device` is cpu, or the GPU's name. `in_flight` is the number of calls at a time that one song should make
    to keep the engine busy.
    """

    backend: str
    device: str
    precision: str
    batch: int
    in_flight: int

    @property
    def healthy(self) -> bool:
        """False where the engine will not work again in this process."""
        ...

    def run(self, inputs: Tensors) -> Tensors:
        """The manifest's inputs -> its outputs, in the shapes of Shapes.of, float32.

        Raises EngineRunError when the backend fails. The results belong to the caller, and so do the inputs:
        the next call may get the same memory.
        """
        ...

    def close(self) -> None:
        """Release the model; running calls must have ended."""
        ...


@dataclass(frozen=True)
class EngineSource:
    """An engine file that is what its manifest says, `entry` of it.

    `content` are the bytes that were compared, for backends that load from memory, else empty.
    """

    path: Path
    manifest: Manifest
    entry: EngineFile
    content: bytes = b""


@dataclass(frozen=True)
class Shapes:
    """Static shapes of an engine's inputs and outputs, by name."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, manifest: Manifest, batch: int) -> "Shapes":
        """mix (batch, channels, frames, bins, 2) -> stems (batch, stems, channels, frames, bins, 2).

        For networks with a time branch also waveform (batch, channels, samples) -> waveforms (batch, stems,
        channels, samples), which are added to the inverse STFT of the stems, or are all there is.
        """
        stems, samples = len(manifest.stems), (manifest.channels, manifest.chunk.samples)
        bins = manifest.stft.bins if manifest.stft else 0
        spectrum = (manifest.channels, manifest.chunk.frames, bins, 2)
        known = {
            "mix": (batch, *spectrum),
            "waveform": (batch, *samples),
            "stems": (batch, stems, *spectrum),
            "waveforms": (batch, stems, *samples),
        }
        return cls({n: known[n] for n in manifest.inputs}, {n: known[n] for n in manifest.outputs})

    def check(
        self, path: Path, inputs: Mapping[str, Sequence[object]], outputs: Mapping[str, Sequence[object]]
    ) -> None:
        """Raise EngineMismatchError unless a file's inputs and outputs are those of the contract."""
        for kind, found, wanted in (("input", inputs, self.inputs), ("output", outputs, self.outputs)):
            plain = {name: tuple(shape) for name, shape in found.items()}
            if plain != wanted:
                raise EngineMismatchError(
                    f"{path}: its {kind} is {plain}, the manifest needs {wanted}; "
                    "export again with rofo-export"
                )


def fits(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether tensors are float32 in these shapes, each of them and no other."""
    found = {name: tensor.shape for name, tensor in tensors.items() if tensor.dtype == np.float32}
    return found == shapes and len(found) == len(tensors)


def described(tensors: Tensors) -> str:
    """Names, types and shapes of tensors."""
    return ", ".join(f"{name} {tensor.dtype} {tensor.shape}" for name, tensor in tensors.items())
