"""The seeded networks of golden files as checkpoints, and these as engines."""

from pathlib import Path
from typing import Any

import torch
import yaml

from golden.files import Case
from golden.seeded import seeded_state
from rofo.export import ExportOptions, export_checkpoint


def state_dict(case: Case) -> dict[str, torch.Tensor]:
    """The weights that the tool had."""
    state = seeded_state(case.facts["shapes"], case.facts.get("seed", ""))
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    complexes = case.facts.get("complex", ())
    return tensors | {name: torch.view_as_complex(tensors[name]) for name in complexes}


def write_checkpoint(case: Case, folder: Path, name: str = "model") -> tuple[Path, Path]:
    """Checkpoint and yaml as a trainer leaves them."""
    checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
    torch.save(state_dict(case), checkpoint)
    config.write_text(yaml.safe_dump(case.facts["config"]))
    return checkpoint, config


def write_lightning(case: Case, folder: Path, name: str = "model") -> Path:
    """A checkpoint with its hyper-parameters, as kuielab's training leaves it."""
    path = folder / f"{name}.ckpt"
    torch.save({"state_dict": state_dict(case), "hyper_parameters": case.facts["hyper_parameters"]}, path)
    return path


def engine_of(checkpoint: Path, config: Path | None = None, **facts: Any) -> Path:
    """The .onnx file of a checkpoint's engine. What it computes is for the caller to compare."""
    report = export_checkpoint(checkpoint, ExportOptions(config=config, given=facts, verify=False))
    return next(file for file in report.files if file.suffix == ".onnx")
