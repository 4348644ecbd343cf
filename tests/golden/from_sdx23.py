"""kuielab's submission to SDX'23: TFC-TDF v3 for four stems under its own overlap-add."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ml_collections import ConfigDict

from golden.files import Case
from golden.seeded import noise, seeded_state, song, stand_in
from golden.stubs import without_a_gpu

INSTRUMENTS = ["bass", "drums", "other", "vocals"]
CONFIG: dict[str, Any] = {
    "audio": {"chunk_size": 1984, "dim_f": 256, "dim_t": 32, "n_fft": 640, "hop_length": 64,
              "num_channels": 2, "sample_rate": 44100},
    "model": {"act": "gelu", "norm": "InstanceNorm", "num_channels": 8, "growth": 6, "num_scales": 2,
              "num_blocks_per_scale": 2, "num_subbands": 4, "bottleneck_factor": 4, "scale": [2, 2]},
    "training": {"instruments": INSTRUMENTS, "target_instrument": None},
    "inference": {"batch_size": 2, "dim_t": 32, "num_overlap": 4},
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    without_a_gpu()
    yield "sdx23", {"four stems": _songs()}
    yield "sdx23_scheme", {str(number): _scheme(number) for number in (2, 8, 96)}


def _demix(config: dict[str, Any], network: Any, mix: np.ndarray) -> np.ndarray:
    from my_submission.modelA import MusicSeparationModel

    model = MusicSeparationModel.__new__(MusicSeparationModel)
    model.config, model.model = ConfigDict(config), network
    return np.stack(list(model.demix(torch.from_numpy(mix)).values()))


def _songs() -> Case:
    from my_submission.src.tfc_tdf_v3 import TFC_TDF_net

    network = TFC_TDF_net(ConfigDict(CONFIG)).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    lengths = (1, 1984, 1985, 3001)
    outputs = {str(length): _demix(CONFIG, network, song(length)) for length in lengths}
    return Case({"config": CONFIG, "shapes": shapes}, outputs)


def _scheme(number: int) -> Case:
    """`demix` alone, for the stand-in's two stems and these upside down."""
    config = {**CONFIG, "audio": {"hop_length": 1}}
    config["inference"] = {"batch_size": 1, "dim_t": 97, "num_overlap": number}

    def network(chunks: torch.Tensor) -> torch.Tensor:
        stems = np.stack([stand_in(item) for item in chunks.numpy()])
        return torch.from_numpy(np.concatenate((stems, -stems), axis=1))

    lengths = (1, 2, 95, 96, 97, 192, 301)
    outputs = {str(length): _demix(config, network, noise(length))[:2] for length in lengths}
    return Case({"chunk": 96, "number": number}, outputs)
