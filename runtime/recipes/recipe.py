"""What a recipe says, once it is read and checked."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rofo.recipes.step import Step


@dataclass(frozen=True)
class EngineEntry:
    """An engine of a recipe: its manifest, or a recipe, relative to the recipe's folder.

    `checkpoint`, `sha256` of the checkpoint and `export`, further options of rofo-export, tell how it is
    made where it is missing.
    """

    file: str
    checkpoint: str | None = None
    sha256: str | None = None
    export: str | None = None

    @property
    def command(self) -> str:
        """The rofo-export command that makes it."""
        checked = f" --sha256 {self.sha256}" if self.sha256 else ""
        further = f" {self.export}" if self.export else ""
        stem = self.file.removesuffix(".json")
        return f"rofo-export {self.checkpoint or 'CHECKPOINT'}{checked}{further} --output {stem}"


@dataclass(frozen=True)
class Recipe:
    """Several engines as one.

    `stems` and `outputs`, the signals they are, go together; `residual` names the mix less all stems, or is
    None. `engines` are the files by their names in the recipe. `said` is the recipe as parsed, without what
    does not decide over the sound.
    """

    name: str
    sample_rate: int
    channels: int
    stems: tuple[str, ...]
    residual: str | None
    engines: Mapping[str, Path]
    steps: tuple["Step", ...]
    outputs: tuple[str, ...]
    said: Mapping[str, Any]

    def identity(self, engines: Sequence[str]) -> str:
        """A hash of all that decides over the stems, with the identities of the engines, in their order."""
        facts = [self.sample_rate, self.channels, self.said, list(engines)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
