"""Other separation tools, where they are installed: their own command line on the same song."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rofo.benchmarks.networks import Checkpoint
from rofo.benchmarks.processes import Measured, measured
from rofo.benchmarks.subject import Subject
from rofo.errors import EngineLoadError


@dataclass(frozen=True)
class Tool:
    """A program on the PATH; `run` separates a song with a model, in a folder of its own."""

    program: str
    run: Callable[[Subject, Path, Path, int], Measured]

    def missing(self) -> str | None:
        """Why it cannot take part, None where it can."""
        return None if shutil.which(self.program) else f"not installed; pip install {self.program}"


def _pymss(subject: Subject, song: Path, folder: Path, threads: int) -> Measured:
    """Registered under a home of its own, then run on the processor."""
    checkpoint, config = subject.checkpoint, subject.told.config
    file = Checkpoint.of(subject)
    kind = file.family.msst_type(file.facts)
    if checkpoint is None or config is None or kind is None:
        raise EngineLoadError("pymss needs a checkpoint of a network it has, and its yaml; give both")
    files = ["--model", str(checkpoint.resolve()), "--config", str(config.resolve())]
    measured(["pymss", "register", "bench", "--type", kind, *files, "--force"], home=folder)
    return measured(
        ["pymss", "infer", "bench", "-i", str(song), "-o", str(folder / "stems"), "--device", "cpu"],
        threads=threads, home=folder,
    )  # fmt: skip


def _audio_separator(subject: Subject, song: Path, folder: Path, threads: int) -> Measured:
    """It takes models that its own list names, and reads this list from the network."""
    checkpoint = subject.checkpoint
    if checkpoint is None:
        raise EngineLoadError("audio-separator needs a checkpoint; give it instead of the engine")
    command = ["audio-separator", str(song), "--model_filename", checkpoint.name]
    places = ["--model_file_dir", str(checkpoint.resolve().parent), "--output_dir", str(folder / "stems")]
    return measured([*command, *places], threads=threads, home=folder)


TOOLS = (Tool("pymss", _pymss), Tool("audio-separator", _audio_separator))
