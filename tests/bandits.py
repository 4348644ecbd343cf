"""The Bandits of golden files as checkpoints."""

from pathlib import Path
from typing import Any

import torch
import yaml
from golden.checkpoints import state_dict
from golden.files import Case, read

CASES = read("msst_bandit").cases


def weights(case: Case) -> dict[str, torch.Tensor]:
    """The weights that the tool had; those of its bands are its own."""
    tables = {name: torch.from_numpy(array) for name, array in case.outputs.items() if "freq_weights" in name}
    state = state_dict(case)
    return {name: tables.get(name.rpartition(".")[2], tensor) for name, tensor in state.items()}


def write(name: str, folder: Path, **options: Any) -> tuple[Path, Path]:
    """Checkpoint and yaml; `options` replace those of the network in the yaml."""
    case = CASES[name]
    checkpoint, config = folder / "model.ckpt", folder / "model.yaml"
    torch.save(weights(case), checkpoint)
    said = dict(case.facts["config"])
    section = "kwargs" if "kwargs" in said else "model"
    config.write_text(yaml.safe_dump({**said, section: {**said[section], **options}}))
    return checkpoint, config
