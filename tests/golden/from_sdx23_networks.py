"""kuielab's submission to SDX'23 with three small seeded TFC-TDF v3, around every edge of a chunk."""

import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from ml_collections import ConfigDict

from golden.files import Case
from golden.from_sdx23 import CONFIG
from golden.seeded import seeded_state
from golden.stubs import inside, without_a_gpu
from golden.systems import kept, music

CHUNK = 1984
SMALL = {**CONFIG["model"], "num_scales": 1, "num_blocks_per_scale": 1, "norm": "InstanceNorm"}
# Shorter than a chunk, a chunk, one more, and a last chunk that begins 10 samples before the end.
LENGTHS = (700, CHUNK, CHUNK + 1, 4 * CHUNK + 10)
INFERENCE = {"A": {"batch_size": 2, "dim_t": 32, "num_overlap": 8}}
INFERENCE["B"] = INFERENCE["A"]
STEPS = {"A": 100000, "B": 150000}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    without_a_gpu()
    yield "sdx23_networks", {board: _case(board) for board in "AB"}


def _case(board: str) -> Case:
    from my_submission.src.tfc_tdf_v3 import TFC_TDF_net

    config: dict[str, Any] = {**CONFIG, "model": SMALL, "inference": INFERENCE[board]}
    shapes = {n: list(t.shape) for n, t in TFC_TDF_net(ConfigDict(config)).state_dict().items()}
    common = {"form": "state", "config": config, "yaml": "config.yaml", "shapes": shapes}
    files = {f"step{STEPS[board]}_seed{i}.ckpt": {**common, "seed": f"seed {i}"} for i in range(3)}
    outputs = {}
    with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
        weights = Path("my_submission", "ckpts", f"model{board}")
        weights.mkdir(parents=True)
        (weights / "config.yaml").write_text(yaml.safe_dump(config))
        for name, facts in files.items():
            state = seeded_state(shapes, facts["seed"])
            torch.save({key: torch.from_numpy(value) for key, value in state.items()}, weights / name)
        model = import_module(f"my_submission.model{board}").MusicSeparationModel()
        for length in LENGTHS:
            stems, _ = model.separate_music_file(music(length).T, 44100)
            outputs |= {f"{length} {name}": kept(stem.T) for name, stem in stems.items()}
    return Case({"files": files, "lengths": LENGTHS}, outputs)
