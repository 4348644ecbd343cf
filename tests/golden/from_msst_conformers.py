"""MSST: its conformers on one chunk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.from_msst import BS, BS_CHUNK, MEL, MEL_CHUNK, SMALL, shapes
from golden.seeded import seeded_state, song

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bs_conformer": ("bs_conformer", {}),
    "bs_conformer, two blocks, mono": (
        "bs_conformer",
        {"time_conformer_depth": 2, "freq_conformer_depth": 2, "stereo": False, "conv_kernel_size": 7},
    ),
    "bs_conformer, linear, skip": (
        "bs_conformer",
        {"linear_conformer_depth": 1, "skip_connection": True, "conv_expansion_factor": 1, "num_stems": 2},
    ),
    "mel_band_conformer": ("mel_band_conformer", {}),
    "mel_band_conformer, linear, three mask layers": (
        "mel_band_conformer",
        {"linear_conformer_depth": 1, "mask_estimator_depth": 3, "ff_mult": 2},
    ),
}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "msst_conformers", {name: _case(*case) for name, case in CASES.items()}


def _case(kind: str, options: dict[str, Any]) -> Case:
    from models.bs_roformer import BSConformer, MelBandConformer

    bs = kind == "bs_conformer"
    small = {name.replace("_transformer_", "_conformer_"): value for name, value in SMALL.items()}
    model = {**small, **(BS if bs else MEL), **options}
    samples = BS_CHUNK if bs else MEL_CHUNK
    network = (BSConformer if bs else MelBandConformer)(**model).eval()
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes(network)).items()}
    )
    chunk = song(samples, 2 if model["stereo"] else 1, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None]).reshape(-1, *chunk.shape).numpy()
    config = {
        "audio": {"sample_rate": 44100, "chunk_size": samples},
        "model": {**model, "freqs_per_bands": list(model["freqs_per_bands"])} if bs else model,
        "training": {"instruments": ["vocals", "other"]}
        | ({"target_instrument": "vocals"} if len(stems) == 1 else {}),
        "inference": {"batch_size": 1, "num_overlap": 1},
    }
    return Case({"kind": kind, "config": config, "shapes": shapes(network)}, {"stems": stems})
