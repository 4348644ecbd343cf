"""magronp's BSRNN with TF-GridNet attention: its networks, and its overlap-add of a whole song."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning
import torch

from golden.files import Case
from golden.seeded import seeded_state, song
from golden.stubs import stub

SMALL = {"feature_dim": 16, "num_repeat": 2, "sample_rate": 44100, "n_fft": 2048, "n_hop": 512}
NETWORKS: dict[str, dict[str, Any]] = {
    "vocals, LSTM": {"target": "vocals", "time_layer": "lstm", "band_layer": "lstm"},
    "bass, GRU": {"target": "bass", "time_layer": "gru", "band_layer": "gru"},
    "drums, convolutions": {"target": "drums", "time_layer": "conv", "band_layer": "conv"},
    "other, GRU and convolutions": {"target": "other", "time_layer": "gru", "band_layer": "conv"},
    "vocals, LSTM, attention": {
        "target": "vocals", "time_layer": "lstm", "band_layer": "lstm", "n_att_head": 1, "attn_enc_dim": 10,
    },
    "drums, LSTM, two heads": {
        "target": "drums", "time_layer": "lstm", "band_layer": "lstm", "n_att_head": 2, "attn_enc_dim": 4,
    },
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("helpers.data", "helpers.eval", "pandas", "lightning")
    sys.modules["lightning"].pytorch = sys.modules["lightning.pytorch"] = pytorch_lightning
    cases = {name: _one_chunk(options) for name, options in NETWORKS.items()}
    cases["a whole song"] = _song(NETWORKS["vocals, LSTM, attention"])
    yield "bsrnn", cases


def _network(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from models.bsrnn import BSRNN
    from omegaconf import OmegaConf

    optim = OmegaConf.create({"lr": 0.001, "loss_type": "L1", "loss_domain": "t"})
    scheduler = OmegaConf.create({"name": "plateau", "factor": 0.5, "patience": 3})
    network = BSRNN(optim, scheduler, **SMALL, **options).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    return network, {"hyper_parameters": {**SMALL, **options}, "shapes": shapes}


def _one_chunk(options: dict[str, Any]) -> Case:
    network, facts = _network(options)
    with torch.inference_mode():
        stem = network(torch.from_numpy(song(6000, silent=(0.7, 1)))[None])["waveforms"][0]
    return Case(facts, {"stems": stem.numpy()})


def _song(options: dict[str, Any]) -> Case:
    """Segments of 0.1 s, where the tool has 10."""
    network, facts = _network(options)
    network.eval_segment_len, network.eval_device = 0.1, "cpu"
    mix = torch.from_numpy(song(17_000))[None]
    stem, _ = network._apply_model_to_track(mix, mix[:, None], comp_loss=False)
    return Case({**facts, "segment": 0.1, "overlap": 0.1}, {"17000": stem[0].numpy()})
