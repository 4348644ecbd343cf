"""magronp's BSRNN as it is today: TAC, wider or narrower layers, several targets in one network."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch

from golden.files import Case
from golden.seeded import seeded_state, song
from golden.stubs import stub

SMALL = {"feature_dim": 8, "num_repeat": 2, "sample_rate": 44100, "n_fft": 2048, "n_hop": 512}
TAC = {"stereo": "tac", "act_tac": "prelu", "fac_tac": 3, "n_att_head": 2, "attn_enc_dim": 3}
NETWORKS: dict[str, dict[str, Any]] = {
    "vocals": {"targets": "vocals"},
    "drums, TAC": {"targets": "drums", "stereo": "tac", "act_tac": "tanh", "fac_tac": 2},
    "vocals, TAC and heads": {"targets": "vocals", **TAC},
    "all targets at once": {"targets": ["vocals", "bass", "drums", "other"], "joint_bandsplit": True, **TAC},
    "narrower layers": {"targets": "bass", "fac_sep": 1, "fac_mask": 2},
}
OPTIM = {"lr": 0.001, "loss_type": "L1", "loss_domain": "t", "algo": "adam", "monitor_val": "sdr"}
SCHEDULER = {"name": "step", "step_size": 2, "gamma": 0.98}
EVALUATION = {"device": "cpu", "verbose_per_track": False, "rec_dir": None, "segment_len": 10, "overlap": 0.1,
              "hop_size": None, "sdr_type": "usdr", "sdr_win": 1.0, "sdr_hop": 1.0}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("helpers.data", "helpers.eval", "pandas", "lightning")
    sys.modules["lightning"].pytorch = sys.modules["lightning.pytorch"] = pytorch_lightning
    yield "bsrnn_newer", {name: _one_chunk(options) for name, options in NETWORKS.items()}


def _one_chunk(options: dict[str, Any]) -> Case:
    from models.bsrnn import BSRNN
    from omegaconf import OmegaConf

    network = BSRNN(*map(OmegaConf.create, (OPTIM, SCHEDULER, EVALUATION)), **SMALL, **options).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(4000, silent=(0.7, 1)))[None])["waveforms"][0]
    return Case({"hyper_parameters": {**SMALL, **options}, "shapes": shapes}, {"stems": stems.numpy()})
