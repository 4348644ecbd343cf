"""MSST: networks of more families, on one chunk: SCNet in three forms, Bandit in two; songs of Bandit."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict

from golden.files import Case
from golden.seeded import seeded_state, song
from golden.stubs import bare_package, stub

SCNET = {
    "sources": ["drums", "vocals"], "audio_channels": 2, "dims": [4, 8, 12, 16], "nfft": 512,
    "hop_size": 128, "win_size": 512, "normalized": True, "band_SR": [0.175, 0.392, 0.433],
    "band_stride": [1, 4, 16], "band_kernel": [3, 4, 16], "conv_depths": [3, 2, 1], "compress": 4,
    "conv_kernel": 3, "num_dplayer": 4, "expand": 1,
}  # fmt: skip
TRANSFORMERS = {
    "tran_rotary_embedding_dim": 8, "tran_depth": 1, "tran_heads": 2, "tran_dim_head": 8,
    "tran_attn_dropout": 0.0, "tran_ff_dropout": 0.0, "tran_flash_attn": False,
}  # fmt: skip
BANDIT = {
    "stems": ["speech", "music"], "n_bands": 16, "fs": 44100, "require_no_overlap": False,
    "require_no_gap": True, "normalize_channel_independently": False, "treat_channel_as_feature": True,
    "n_sqm_modules": 2, "emb_dim": 16, "rnn_dim": 16, "bidirectional": True, "rnn_type": "GRU",
    "mlp_dim": 32, "hidden_activation": "Tanh", "hidden_activation_kwargs": None, "complex_mask": True,
    "n_fft": 2048, "win_length": 2048, "hop_length": 512, "window_fn": "hann_window", "wkwargs": None,
    "power": None, "center": True, "normalized": True, "onesided": True,
}  # fmt: skip
BANDIT_1 = {**BANDIT, "in_channel": 1, "band_specs": "musical", "pad_mode": "constant"}
BANDIT_2 = {**BANDIT, "in_channels": 1, "band_type": "musical", "pad_mode": "reflect", "fs": 48000}
SAMPLES = 6000
SONG = 13_000


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("spafe", "spafe.fbanks", "spafe.utils", "spafe.utils.converters")
    bare_package("models.bandit.core", clone / "models/bandit/core")
    yield "msst_scnet", dict(_scnet())
    yield "msst_scnet_tran", dict(_scnet_tran())
    yield "msst_bandit", dict(_bandit())


def _scnet() -> Iterator[tuple[str, Case]]:
    from models.scnet.scnet import SCNet
    from models.scnet.scnet_masked import SCNet as Masked

    yield "scnet", _case(SCNet, SCNET)
    # An even number of frames needs another padding.
    yield "scnet, one hop more", _case(SCNet, SCNET, SAMPLES + 128)
    yield "scnet, large", _case(SCNet, {**SCNET, "dims": [4, 16, 24, 32], "expand": 2})
    yield "scnet_masked", _case(Masked, SCNET)
    yield "scnet_masked, one hop more", _case(Masked, SCNET, SAMPLES + 128)


def _scnet_tran() -> Iterator[tuple[str, Case]]:
    from models.scnet.scnet_tran import SCNet_Tran

    yield "scnet_tran", _case(SCNet_Tran, {**SCNET, **TRANSFORMERS}, SAMPLES // 2)
    # Of heads as wide as these the first half is turned by its place, the rest is not.
    half = {**TRANSFORMERS, "tran_depth": 2, "tran_dim_head": 16, "tran_rotary_embedding_dim": 8}
    yield "scnet_tran, two layers, half rotated", _case(SCNet_Tran, {**SCNET, **half}, SAMPLES // 2)


def _bandit() -> Iterator[tuple[str, Case]]:
    from models.bandit.core.model import MultiMaskMultiSourceBandSplitRNNSimple
    from models.bandit_v2.bandit import Bandit

    def first(**options: Any) -> Case:
        return _bandit_case(MultiMaskMultiSourceBandSplitRNNSimple, "model", {**BANDIT_1, **options})

    def second(**options: Any) -> Case:
        return _bandit_case(Bandit, "kwargs", {**BANDIT_2, **options})

    for rnn in ("GRU", "LSTM"):
        yield f"bandit, {rnn}", first(rnn_type=rnn)
        yield f"bandit_v2, {rnn}", second(rnn_type=rnn)
    yield "bandit, mel bands", first(band_specs="dnr:mel")
    yield "bandit, bands without overlap", first(band_specs="dnr:vox7", n_bands=None)
    alone = {**BANDIT_1, "stems": ["speech"], "rnn_type": "LSTM"}
    yield "bandit, one stem alone", _bandit_case(_alone, "model", alone)
    yield "bandit_v2, 64 bands", second(n_bands=64, emb_dim=8, mlp_dim=8, n_sqm_modules=1)


def _case(build: type[torch.nn.Module], options: dict[str, Any], samples: int = SAMPLES) -> Case:
    network = build(**options).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(samples, silent=(0.7, 1)))[None])[0]
    return Case({"config": {"model": options}, "shapes": shapes}, {"stems": stems.float().numpy()})


def _alone(**options: Any) -> torch.nn.Module:
    """The network of one stem alone, called as MSST calls the others."""
    from models.bandit.core.model.bsrnn.wrapper import SingleMaskMultiSourceBandSplitRNN

    class Alone(SingleMaskMultiSourceBandSplitRNN):
        def forward(self, songs: torch.Tensor) -> torch.Tensor:
            batch = {"audio": {"mixture": songs.reshape(-1, 1, songs.shape[-1])}}
            _, found = super().forward(batch)
            return found["audio"]["speech"].view(songs.shape)[:, None]

    own = {name: value for name, value in options.items() if name not in ("stems", "n_bands", "band_specs")}
    return Alone(band_specs_map="dnr:vox7:speech", **own)


def _bandit_case(build: Callable[..., torch.nn.Module], section: str, options: dict[str, Any]) -> Case:
    """One chunk, and `demix` of a song; beside them the weights of overlapping bands, which are tables."""
    from utils.model_utils import demix

    network = build(**options).eval()
    own = network.state_dict()
    shapes = {name: list(tensor.shape) for name, tensor in own.items()}
    seeded = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    tables = {name: own[name].float() for name in own if "freq_weights" in name}
    network.load_state_dict({**seeded, **tables})
    config = {
        "audio": {"chunk_size": SAMPLES, "num_channels": 2, "sample_rate": options["fs"]},
        "training": {"instruments": options["stems"], "target_instrument": None},
        "inference": {"num_overlap": 2, "batch_size": 1},
        section: options,
        **({"cls": "Bandit"} if section == "kwargs" else {}),
    }
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(SAMPLES, silent=(0.7, 1)))[None])[0].float().numpy()
    songs = demix(ConfigDict(config), network, song(SONG), "cpu", "bandit")
    first = options["stems"][0]
    outputs = {"stems": stems[..., ::5], "song": np.stack(list(songs.values()))[..., ::25].astype(np.float32)}
    named = {name.rpartition(".")[2]: table.numpy() for name, table in tables.items() if f".{first}." in name}
    return Case({"config": config, "shapes": shapes}, {**outputs, **named})
