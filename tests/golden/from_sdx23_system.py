"""kuielab's submission to SDX'23 as a whole: four stems of three networks; `pointwise` stands in for them."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import mock_open, patch

import numpy as np
import torch

from golden.files import Case
from golden.seeded import loud_song, pointwise
from golden.stubs import stub


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("ml_collections", "my_submission.src.tfc_tdf_v3")
    yield "sdx23_system", {board: _case(board) for board in "AB"}


def _case(board: str) -> Case:
    with patch("builtins.open", mock_open(read_data="{}")):
        module = import_module(f"my_submission.model{board}")
        model = module.MusicSeparationModel()
    network = SimpleNamespace(name="")
    network.load_state_dict = lambda state: setattr(network, "name", state)
    module.torch.load = lambda path: Path(path).stem.rpartition("_")[2]  # seed0, seed1, seed2
    model.model = network

    def demix(mix: torch.Tensor) -> dict[str, np.ndarray]:
        return dict(zip(model.instruments, pointwise(network.name, 4, mix.numpy()), strict=True))

    model.demix = demix
    stems, _ = model.separate_music_file(loud_song().T, 44100)
    return Case({}, {name: np.ascontiguousarray(stem.T, np.float32) for name, stem in stems.items()})
