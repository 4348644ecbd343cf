"""`make demo`: export the demo checkpoint, separate a real mix with the engine, and tell how good that is."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from rofo.benchmarks.metrics import median_sdr, sdr
from rofo.benchmarks.picture import write_picture
from rofo.manifest import load_engine_manifest

Floats = NDArray[np.float32]

DEMO = Path(__file__).parent.parent / "checkpoints" / "demo"
MIX = DEMO / "mix.flac"
CHECKPOINT, CONFIG = DEMO / "model.ckpt", DEMO / "model.yaml"
# What was mixed, in the order of the model's stems: the one it estimates, and the rest.
TRUTHS = DEMO / "voice.flac", DEMO / "music.flac"


def main() -> int:
    """Print where to listen; the exit code is that of the first tool that fails."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / CHECKPOINT.stem
    options = ["--config", CONFIG, "--target", "onnx", "--output", stem]
    separated = folder / "separated"
    for tool in (
        ["rofo-export", CHECKPOINT, *options],
        ["rofo-run", "--engine", f"{stem}.onnx", MIX, "--output", separated],
    ):
        command = [str(Path(sys.executable).parent / str(tool[0])), *map(str, tool[1:])]
        _say("$ " + " ".join(map(str, tool)))
        if code := subprocess.run(command, check=False).returncode:
            return code
    manifest = load_engine_manifest(f"{stem}.onnx")
    estimates = [separated / MIX.stem / f"{name}.flac" for name in (*manifest.stems, manifest.residual)]
    tell_quality(dict(zip(estimates, TRUTHS, strict=True)), folder / "spectrograms.png")
    return 0


def tell_quality(pairs: Mapping[Path, Path], picture: Path) -> None:
    """Print the SDR of separated stems against the true ones, {estimate: truth}, and draw all of them."""
    mix, rate = _read(MIX)
    rows = []
    for file, true_file in pairs.items():
        (truth, _), (estimate, _) = _read(true_file), _read(file)
        _say(
            f"{file.stem}: SDR {sdr(truth, estimate):.2f} dB, median over seconds "
            f"{median_sdr(truth, estimate, rate):.2f} dB; the mix as it is {sdr(truth, mix):.2f} dB"
        )
        rows.append({"mix": mix, f"{file.stem}, separated": estimate, f"{true_file.stem}, true": truth})
    write_picture(picture, rows, rate)
    _say(f"Listen to {MIX} and to the stems in {next(iter(pairs)).parent}; look at {picture}.")


def _read(file: Path) -> tuple[Floats, int]:
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return samples.T, rate


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script's output


if __name__ == "__main__":
    sys.exit(main())
