"""`make demo`: export a checkpoint, separate a real mix with the engine, say where the stems are."""

import subprocess
import sys
from pathlib import Path

from rofo.benchmarks import viperx

MIX = Path(__file__).parent.parent / "checkpoints" / "demo" / "mix.flac"

# Small enough for a few seconds on a laptop; the layout, the bands and the path are those of public models.
SHAPE = {"dim": 64, "depth": 3}


def main() -> int:
    """Print the stems' paths; the exit code is that of the first tool that fails."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, config = viperx.write_checkpoint(folder, viperx.reference_network(**SHAPE), **SHAPE)
    _say("The demo checkpoint has random weights: it shows the path and the speed, its stems are not music.")
    engine = checkpoint.with_suffix(".onnx")
    tools = (
        ["rofo-export", checkpoint, "--config", config, "--target", "onnx"],
        ["rofo-run", "--engine", engine, MIX, "--output", folder / "separated"],
    )
    for tool in tools:
        command = [str(Path(sys.executable).parent / str(tool[0])), *map(str, tool[1:])]
        _say("$ " + " ".join(map(str, tool)))
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script's output


if __name__ == "__main__":
    sys.exit(main())
