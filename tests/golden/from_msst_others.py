"""MSST: networks of more families, on one chunk: SCNet, SCNet Masked, Bandit and Bandit v2."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.seeded import seeded_state, song
from golden.stubs import bare_package, stub

SCNET = {
    "sources": ["drums", "vocals"], "audio_channels": 2, "dims": [4, 8, 12, 16], "nfft": 512,
    "hop_size": 128, "win_size": 512, "normalized": True, "band_SR": [0.175, 0.392, 0.433],
    "band_stride": [1, 4, 16], "band_kernel": [3, 4, 16], "conv_depths": [3, 2, 1], "compress": 4,
    "conv_kernel": 3, "num_dplayer": 4, "expand": 1,
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


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("spafe", "spafe.fbanks", "spafe.utils", "spafe.utils.converters")
    bare_package("models.bandit.core", clone / "models/bandit/core")
    yield "msst_scnet", dict(_scnet())
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


def _bandit() -> Iterator[tuple[str, Case]]:
    from models.bandit.core.model import MultiMaskMultiSourceBandSplitRNNSimple
    from models.bandit_v2.bandit import Bandit

    for rnn in ("GRU", "LSTM"):
        yield f"bandit, {rnn}", _case(MultiMaskMultiSourceBandSplitRNNSimple, {**BANDIT_1, "rnn_type": rnn})
        yield f"bandit_v2, {rnn}", _case(Bandit, {**BANDIT_2, "rnn_type": rnn})


def _case(build: type[torch.nn.Module], options: dict[str, Any], samples: int = SAMPLES) -> Case:
    network = build(**options).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(samples, silent=(0.7, 1)))[None])[0]
    return Case({"config": {"model": options}, "shapes": shapes}, {"stems": stems.float().numpy()})
