"""What a Triton repository of ours holds besides Triton's own config.pbtxt: which model runs which engine.

DIR/NAME/            separates songs; its version folder has the recipe or manifest, every manifest that
                     belongs to it, and serving.json, which is a Setup
DIR/NAME_network/    runs one engine file on chunks
"""

import json
from dataclasses import dataclass
from pathlib import Path

from rofo.errors import ManifestError
from rofo.json_fields import decode

FILE = "serving.json"
# The tensors of a song model besides its stems, all of bytes: those of BYTES cannot be read by a Python that
# has a newer numpy than the server was built with (see serving/triton.py).
AUDIO, OPTIONS, REPORT = "audio", "options", "report"


@dataclass(frozen=True)
class Network:
    """The Triton model that runs the engine of `manifest`, a path relative to the version folder.

    One call of it takes one chunk, and one song makes `calls` at a time: Triton gathers the chunks of all
    songs into the batches that the engine runs. `precision` is the engine file's, or auto where that is
    decided when it is opened.
    """

    manifest: str
    model: str
    calls: int
    precision: str


@dataclass(frozen=True)
class Setup:
    """A song model: the manifest or recipe that it opens, and the networks of all its engines."""

    engine: str
    networks: tuple[Network, ...]


def load_setup(folder: Path) -> Setup:
    """Read the Setup of a version folder. Raises ManifestError."""
    path = folder / FILE
    try:
        return decode(Setup, json.loads(path.read_text(encoding="utf-8")), "setup")
    except (OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ManifestError(
            f"{path}: not a readable setup ({problem}); write the repository again with rofo-export --triton"
        ) from None
