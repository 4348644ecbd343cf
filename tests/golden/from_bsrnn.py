"""magronp/bsrnn: its networks on one chunk, and its separation of whole songs. At either commit of TOOLS."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from golden.files import Case
from golden.seeded import seeded_state, song
from golden.stubs import stub

SMALL: dict[str, Any] = {"feature_dim": 8, "num_repeat": 2, "time_layer": "lstm", "band_layer": "lstm"}
CHUNK = 4000
NETWORKS: dict[str, dict[str, Any]] = {
    "vocals": {"target": "vocals"},
    "bass, GRU and convolution": {"target": "bass", "time_layer": "gru", "band_layer": "conv"},
    "drums, convolution and GRU": {"target": "drums", "time_layer": "conv", "band_layer": "gru"},
    "other, a head": {"target": "other", "n_att_head": 1, "attn_enc_dim": 3},
    "vocals, two heads": {"target": "vocals", "n_att_head": 2, "attn_enc_dim": 5},
    "48 kHz": {"target": "vocals", "sample_rate": 48000},
    "three blocks": {"target": "bass", "num_repeat": 3, "feature_dim": 4},
}
PRELU = {"stereo": "tac", "act_tac": "prelu", "n_att_head": 2, "attn_enc_dim": 3}
NEWER: dict[str, dict[str, Any]] = {
    "vocals": {"targets": "vocals"},
    "drums, TAC": {"targets": "drums", "stereo": "tac", "act_tac": "tanh", "fac_tac": 2},
    "vocals, TAC and heads": {"targets": "vocals", **PRELU},
    "all targets at once": {"targets": ["vocals", "bass", "drums", "other"], "joint_bandsplit": True, **PRELU},
    "wider layers": {"targets": "bass", "fac_sep": 1, "fac_mask": 2},
}
TRAINING = {"lr": 0.001, "loss_type": "L1", "loss_domain": "t", "algo": "adam", "monitor_val": "sdr"}
EVALUATION = {"device": "cpu", "verbose_per_track": False, "rec_dir": None, "segment_len": 10, "overlap": 0.1,
              "hop_size": None, "sdr_type": "usdr", "sdr_win": 1.0, "sdr_hop": 1.0}  # fmt: skip
SEGMENT = 0.25  # seconds


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("museval", "musdb", "helpers.data")
    if (clone / "models" / "bs.py").exists():
        yield "bsrnn_newer", {name: _one_chunk(_network(options, newer=True)) for name, options in NEWER.items()}
        return
    networks = {name: _one_chunk(_network(options)) for name, options in NETWORKS.items()}
    yield "bsrnn", {**networks, "separator": _one_chunk(_separator(("vocals", "drums")))}
    yield "bsrnn_songs", {"vocals": _songs(), "calls": _calls()}


def _config(*sections: dict[str, Any]) -> list[Any]:
    from omegaconf import OmegaConf

    return [OmegaConf.create(section) for section in sections]


def _network(options: dict[str, Any], *, newer: bool = False) -> Any:
    from models.bsrnn import BSRNN

    sections = _config(TRAINING, {"name": "step", "step_size": 2, "gamma": 0.98}, *[EVALUATION] * newer)
    return _seeded(BSRNN(*sections, **{**SMALL, **options}))


def _separator(targets: tuple[str, ...]) -> Any:
    from models.separator import Separator

    scheduler = {"name": "step", "step_size": 2, "gamma": 0.98}
    numbers = {"sample_rate": 44100, "n_fft": 2048, "n_hop": 512, "eps": 1e-7}
    src_mod = {"name": "bsrnn", "out_dir": "none", **SMALL}
    (args,) = _config(
        {"optim": TRAINING, "scheduler": scheduler, "src_mod": src_mod, "targets": list(targets), **numbers}
    )
    separator = Separator(args)
    for target in targets:  # which are made for vocals where there is no checkpoint
        separator.source_models[target] = _network({"target": target})
    return _seeded(separator)


def _seeded(network: Any) -> Any:
    state = seeded_state(_shapes(network))
    network.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return network.eval()


def _shapes(network: Any) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def _facts(network: Any) -> dict[str, Any]:
    """The hyper-parameters, without hydra's sections, which a Lightning file holds as objects."""
    plain = (int, float, str, list, type(None))
    kept = {key: value for key, value in network.hparams.items() if isinstance(value, plain)}
    return {"hyper_parameters": kept, "shapes": _shapes(network)}


def _one_chunk(network: Any) -> Case:
    chunk = song(CHUNK, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None])["waveforms"][0]
    return Case(_facts(network), {"stems": stems.numpy()})


def _songs() -> Case:
    """A network on whole songs, around the lengths where the separation changes its ways."""
    network = _network({"target": "vocals", "num_repeat": 1, "n_att_head": 1, "attn_enc_dim": 3})
    network.eval_segment_len, network.eval_device = SEGMENT, "cpu"
    outputs = {}
    for samples in (12000, 12500, 40000):
        mix = torch.from_numpy(song(samples))[None]
        found, _ = network._apply_model_to_track(mix, mix[:, None], comp_loss=False)
        outputs[str(samples)] = found[0].numpy()
    return Case({**_facts(network), "segment": SEGMENT}, outputs)


def _calls() -> Case:
    """Which call gave how much of each sample: a network that gives, at its n-th call, n."""
    from models.pl_module import PLModule

    class Counting(PLModule):
        calls = 0

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            self.calls += 1
            return {"waveforms": torch.full_like(x, self.calls)[:, None]}

    outputs = {}
    for samples in (1, 50, 109, 110, 111, 119, 120, 121, 205, 206, 207, 220, 221, 330, 331, 777):
        sections = _config(TRAINING, {"name": "step"})
        network = Counting(*sections, targets=["a"], sample_rate=100, eval_segment_len=1.0, eval_device="cpu")
        song_of_ones = torch.ones(1, 1, samples)
        found, _ = network._apply_model_to_track(song_of_ones, song_of_ones[:, None], comp_loss=False)
        outputs[str(samples)] = found[0, 0].numpy()
    return Case({"chunk": 120}, outputs)
