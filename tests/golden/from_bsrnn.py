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
    stub_training()
    cases = {name: _one_chunk(options) for name, options in NETWORKS.items()}
    cases["a whole song"] = _song(NETWORKS["vocals, LSTM, attention"])
    cases["two targets"] = _targets(("vocals", "drums"))
    cases["calls"] = _calls()
    yield "bsrnn", cases


def stub_training() -> None:
    """What only training needs is not there."""
    stub("helpers.data", "helpers.eval", "pandas", "lightning")
    sys.modules["lightning"].pytorch = sys.modules["lightning.pytorch"] = pytorch_lightning


def training_options() -> dict[str, Any]:
    from omegaconf import OmegaConf

    optim = {"lr": 0.001, "loss_type": "L1", "loss_domain": "t"}
    scheduler = {"name": "plateau", "factor": 0.5, "patience": 3}
    return {"cfg_optim": OmegaConf.create(optim), "cfg_scheduler": OmegaConf.create(scheduler)}


def make_network(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from models.bsrnn import BSRNN

    network = BSRNN(**training_options(), **SMALL, **options)
    return network, {"hyper_parameters": {**SMALL, **options}, "shapes": _seeded(network)}


def _seeded(network: Any) -> dict[str, list[int]]:
    shapes = {name: list(tensor.shape) for name, tensor in network.eval().state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    return shapes


def _one_chunk(options: dict[str, Any]) -> Case:
    return _separated(*make_network(options))


def _separated(network: Any, facts: dict[str, Any]) -> Case:
    with torch.inference_mode():
        stem = network(torch.from_numpy(song(6000, silent=(0.7, 1)))[None])["waveforms"][0]
    return Case(facts, {"stems": stem.numpy()})


def _song(options: dict[str, Any]) -> Case:
    """Segments of 0.1 s, where the tool has 10."""
    network, facts = make_network(options)
    network.eval_segment_len, network.eval_device = 0.1, "cpu"
    mix = torch.from_numpy(song(17_000))[None]
    stem, _ = network._apply_model_to_track(mix, mix[:, None], comp_loss=False)
    return Case({**facts, "segment": 0.1, "overlap": 0.1}, {"17000": stem[0].numpy()})


def _targets(targets: tuple[str, ...]) -> Case:
    """A Separator, as it is saved with the networks of several targets."""
    from models.separator import Separator
    from omegaconf import OmegaConf

    training = training_options()
    numbers = {"sample_rate": 44100, "n_fft": 2048, "n_hop": 512, "eps": 1e-7}
    src_mod = {"name": "bsrnn", "out_dir": "none", **SMALL, **NETWORKS["vocals, LSTM"]}
    optim, scheduler = training["cfg_optim"], training["cfg_scheduler"]
    separator = Separator(
        OmegaConf.create(
            {"optim": optim, "scheduler": scheduler, "src_mod": src_mod, "targets": list(targets), **numbers}
        )
    )
    for target in targets:  # Separator makes all for vocals where there is no checkpoint to load
        separator.source_models[target], _ = make_network({**NETWORKS["vocals, LSTM"], "target": target})
    facts = {"targets": list(targets), "sample_rate": 44100, "n_fft": 2048, "n_hop": 512}
    return _separated(separator, {"hyper_parameters": facts, "shapes": _seeded(separator)})


def _calls() -> Case:
    """Which call gave how much of each sample: a network that gives n at its n-th call; chunks of 120."""
    from models.pl_module import PLModule

    class Counting(PLModule):
        calls = 0

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.calls += 1
            return {"waveforms": torch.full_like(x, self.calls)[:, None]}

    outputs = {}
    for samples in (1, 50, 109, 110, 111, 119, 120, 121, 205, 206, 207, 220, 221, 330, 331, 777):
        network = Counting(**training_options(), targets=["a"], sample_rate=100, eval_segment_len=1.0)
        network.eval_device, mix = "cpu", torch.ones(1, 1, samples)
        found, _ = network._apply_model_to_track(mix, mix[:, None], comp_loss=False)
        outputs[str(samples)] = found[0, 0].numpy()
    return Case({"chunk": 120, "overlap": 0.1}, outputs)
