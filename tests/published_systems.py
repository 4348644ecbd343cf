"""A published recipe with small seeded networks in the place of its own: their checkpoints are exported by
the commands that the recipe names, and it is run as it is."""

import contextlib
import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from demucs_packages import save_package
from golden.checkpoints import write_lightning
from golden.files import FOLDER as GOLDEN
from golden.files import Case
from golden.seeded import seeded_state
from golden.systems import flipped_kernels, with_masks_at

from rofo.export.cli import main as export
from rofo.recipes.read import Listed, list_engines

RECIPES = Path(__file__).parents[1] / "checkpoints" / "recipes"
# Engines by what they were made of: systems share networks.
_made: dict[str, Path] = {}


def lay_out(recipe: str, files: Mapping[str, dict[str, Any]], folder: Path) -> Path:
    """The recipe of this name in `folder`, with engines made of the checkpoints `files` of a golden case."""
    path = folder / f"{recipe}.toml"
    shutil.copy(RECIPES / path.name, path)
    with contextlib.chdir(folder):
        for engine in list_engines(path):
            _export(engine, files)
    return path


def _export(engine: Listed, files: Mapping[str, dict[str, Any]]) -> None:
    checkpoint, *options = shlex.split(engine.command)[1:]
    facts = files[checkpoint]
    # What is added wins: the lengths of small networks.
    arguments = [checkpoint, *options, *facts.get("export", []), "--target", "onnx", "--no-verify"]
    place = options.index("--output") + 1
    told = options[: place - 1] + options[place + 1 :]
    key = json.dumps([facts, told], sort_keys=True)
    if key not in _made:
        WRITERS[facts["form"]](facts, Path(checkpoint))
        export.command.main(arguments, standalone_mode=False)
        _made[key] = engine.path.resolve()
        return
    made = _made[key]
    text = made.read_text().replace(f'"{made.stem}.onnx"', f'"{engine.path.stem}.onnx"')
    engine.path.write_text(text.replace(f'"{made.stem}"', f'"{engine.path.stem}"'))
    shutil.copy(made.with_suffix(".onnx"), engine.path.with_suffix(".onnx"))


def _write_state(facts: dict[str, Any], path: Path) -> None:
    state = seeded_state(facts["shapes"], facts["seed"])
    state = with_masks_at(state, facts.get("gain", 1.0))
    torch.save({name: torch.from_numpy(tensor) for name, tensor in state.items()}, path)
    config = facts["config"]
    if "freqs_per_bands" in config.get("model", {}).get("params", {}):
        bands = tuple(config["model"]["params"]["freqs_per_bands"])
        params = {**config["model"]["params"], "freqs_per_bands": bands}
        config = {**config, "model": {**config["model"], "params": params}}
    Path(facts["yaml"]).write_text(yaml.dump(config))


def _write_demucs(facts: dict[str, Any], path: Path) -> None:
    save_package(Case(facts), path.parent).rename(path)


def _write_lightning(facts: dict[str, Any], path: Path) -> None:
    write_lightning(Case(facts), path.parent, path.stem)


def _write_onnx(facts: dict[str, Any], path: Path) -> None:
    graph = onnx.load(GOLDEN / "mdx_net.onnx")
    if facts["seed"] == "flipped":
        for tensor in graph.graph.initializer:
            flipped = flipped_kernels(onnx.numpy_helper.to_array(tensor))
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(flipped), tensor.name))
    onnx.save(graph, path)


WRITERS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "state": _write_state, "demucs": _write_demucs, "lightning": _write_lightning, "onnx": _write_onnx,
}  # fmt: skip
