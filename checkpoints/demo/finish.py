"""Turn a run of train.py into the committed files: model.ckpt, model.yaml, loss.svg and results.json.

The results are those of the engine that rofo-export makes of the two, joined as rofo-run joins it.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import soundfile as sf
import torch
import yaml
from torch import Tensor

from rofo.checkpoints.demo.curve import curve
from rofo.checkpoints.demo.data import SAMPLE_RATE, Samples
from rofo.checkpoints.demo.measure import Separate, mean_of, measured, measured_mixes
from rofo.checkpoints.demo.network import CHUNK, SHAPE
from rofo.export import ExportOptions, export_checkpoint
from rofo.options import Options
from rofo.separator import Separator

HERE: Final = Path(__file__).parent


def model_yaml() -> dict[str, Any]:
    """The yaml that goes with the weights, in the layout of public checkpoints."""
    return {
        "audio": {"chunk_size": CHUNK, "sample_rate": SAMPLE_RATE, "num_channels": 2},
        "model": SHAPE.yaml(),
        "training": {"instruments": ["voice", "music"], "target_instrument": "voice"},
        "inference": {"num_overlap": 2, "batch_size": 1},
    }


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Round the trained weights to float16, but not the angles: in a chunk they would get 0.06 rad off."""
    return {key: value if key.endswith("freqs") else value.half() for key, value in state.items()}


def committed_mix() -> tuple[Samples, Samples]:
    """The voice and the music of the demo mix beside this script, [2, frames]."""
    voice, music = (
        sf.read(HERE / f"{stem}.flac", dtype="float32", always_2d=True)[0].T for stem in ("voice", "music")
    )
    return voice, music


@contextmanager
def exported(folder: Path) -> Iterator[Separate]:
    """What the engine of model.ckpt and model.yaml in `folder` takes for the voice."""
    with tempfile.TemporaryDirectory() as work:
        engine = Path(work) / "model"
        options = ExportOptions(output=engine, config=folder / "model.yaml")
        export_checkpoint(folder / "model.ckpt", options)
        with Separator(engine.with_suffix(".onnx"), precision="fp32") as separator:
            yield lambda mix: separator.separate(mix, SAMPLE_RATE, Options(stems=["voice"]))["voice"]


def finish(run: Path, cache: Path, output: Path) -> None:
    """Write the averaged weights of a run and their yaml, measure them as written, draw the curve."""
    state = torch.load(run / "last.pt", map_location="cpu", weights_only=True)
    weights, progress = halved(state["average"]), state["progress"]
    output.mkdir(parents=True, exist_ok=True)
    torch.save(weights, output / "model.ckpt")
    (output / "model.yaml").write_text(yaml.safe_dump(model_yaml(), sort_keys=False))
    history = progress["history"]
    losses = [(minutes, loss) for minutes, _, loss, _ in history if loss is not None]
    scores = [(minutes, score) for minutes, _, _, score in history if score is not None]
    (output / "loss.svg").write_text(curve(losses, scores))
    with exported(output) as separate:
        mixes = measured_mixes(separate, cache, "test")
        demo_mix = measured(separate, *committed_mix())
    results = {
        "steps": progress["steps"],
        "minutes": progress["seconds"] / 60,
        "demo_mix": demo_mix,
        "test_mean": mean_of(mixes),
        "test_mixes": mixes,
    }
    (output / "results.json").write_text(json.dumps(_rounded(results), indent=1) + "\n")
    sys.stdout.write(f"demo mix {_rounded(demo_mix)}\ntest mean {results['test_mean']}\n")


def _rounded(value: Any) -> Any:
    """The same JSON data with numbers of two decimals."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) else value
