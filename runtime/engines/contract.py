"""The tensors every engine has, and the checks that hold a loaded file to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rofo.errors import EngineMismatchError
from rofo.manifest import Manifest


@dataclass(frozen=True)
class Shapes:
    """Static shapes of the input `mix` and the output `stems`."""

    mix: tuple[int, ...]
    stems: tuple[int, ...]

    @classmethod
    def of(cls, manifest: Manifest, batch: int) -> "Shapes":
        """(batch, channels, frames, bins, 2) and (batch, stems, channels, frames, bins, 2)."""
        tail = (manifest.channels, manifest.chunk.frames, manifest.stft.bins, 2)
        return cls((batch, *tail), (batch, len(manifest.stems), *tail))

    def check(
        self, path: Path, inputs: Mapping[str, Sequence[object]], outputs: Mapping[str, Sequence[object]]
    ) -> None:
        """Raise EngineMismatchError unless a file's inputs and outputs are those of the contract."""
        for kind, found, wanted in (
            ("input", inputs, {"mix": self.mix}),
            ("output", outputs, {"stems": self.stems}),
        ):
            plain = {name: tuple(shape) for name, shape in found.items()}
            if plain != wanted:
                raise EngineMismatchError(
                    f"{path}: its {kind} is {plain}, the manifest needs {wanted}; "
                    "export again with rofo-export"
                )
