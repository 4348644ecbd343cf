"""Every error rofo raises on purpose, in one tree.

Each class is also the builtin a caller would expect, and carries the exit code of the command line tools.
A message is one line: the file first, then what is wrong, the cure last.
"""

from collections.abc import Sequence
from pathlib import Path


class RofoError(Exception):
    """Root of the tree. Raised only through a subclass."""

    exit_code = 5


class UsageError(RofoError, ValueError):
    """The call itself cannot work: unknown stem, two inputs with one output name, ..."""

    exit_code = 2


class AudioReadError(RofoError, ValueError):
    """The input cannot be read, or holds samples that cannot be separated."""

    exit_code = 3


class EngineLoadError(RofoError, RuntimeError):
    """The engine, its manifest or its backend cannot be used on this machine."""

    exit_code = 4


class ManifestError(EngineLoadError, ValueError):
    """The manifest is missing, damaged, or of a format this version does not know."""


class EngineMismatchError(EngineLoadError):
    """The engine file is not the one its manifest describes, or was built for something else."""


class RecipeError(EngineLoadError, ValueError):
    """A recipe that cannot be run. `mistakes` are all of them, (line, words); line 0 is the whole file."""

    def __init__(self, path: Path, mistakes: Sequence[tuple[int, str]]) -> None:
        self.path, self.mistakes = path, tuple(mistakes)
        told = (f"line {line}: {words}" if line else words for line, words in self.mistakes)
        super().__init__(f"{path}: {'; '.join(told)}; mend the recipe")

    @property
    def report(self) -> tuple[str, ...]:
        """A line for each mistake."""
        return tuple(f"{self.path}:{line or 1}: {words}" for line, words in self.mistakes)


class EngineRunError(RofoError, RuntimeError):
    """The engine failed while running."""

    exit_code = 5


class EngineOutputError(EngineRunError):
    """The engine returned non-finite samples or the wrong shape."""


class OutputWriteError(RofoError, OSError):
    """A result could not be written; no partial file is left. `everywhere`: nor could any other, the disk is
    full or read-only."""

    exit_code = 6

    def __init__(self, *told: object, everywhere: bool = False) -> None:
        super().__init__(*told)
        self.everywhere = everywhere


class CancelledError(RofoError):
    """The caller asked a running separation to stop."""

    exit_code = 130
