"""MSST: its experimental Roformers, without and with value residuals, on one chunk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.from_msst import BS, BS_CHUNK, MEL, MEL_CHUNK, SMALL, shapes
from golden.seeded import seeded_state, song

VALUES = {"use_value_residual_learning": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bs experimental": ("bs_roformer_experimental", {"depth": 3}),
    "bs experimental, value residuals": ("bs_roformer_experimental", {"depth": 3, **VALUES}),
    "bs experimental, value residuals, two blocks, skip": (
        "bs_roformer_experimental",
        {"time_transformer_depth": 2, "freq_transformer_depth": 2, "skip_connection": True, **VALUES},
    ),
    "mel experimental": ("mel_band_roformer_experimental", {}),
    "mel experimental, value residuals": ("mel_band_roformer_experimental", VALUES),
}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "msst_experimental", {name: _case(*case) for name, case in CASES.items()}


def _case(kind: str, options: dict[str, Any]) -> Case:
    from models.bs_roformer import bs_roformer_experimental, mel_band_roformer_experimental

    bs = kind.startswith("bs")
    model = {**SMALL, **(BS if bs else MEL), **options}
    samples = BS_CHUNK if bs else MEL_CHUNK
    build = bs_roformer_experimental.BSRoformer if bs else mel_band_roformer_experimental.MelBandRoformer
    network = build(**model).eval()
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes(network)).items()}
    )
    chunk = song(samples, 2, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None]).reshape(-1, *chunk.shape).numpy()
    config = {
        "audio": {"sample_rate": 44100, "chunk_size": samples},
        "model": {**model, "freqs_per_bands": list(model["freqs_per_bands"])} if bs else model,
        "training": {
            "instruments": ["vocals", "other"], "target_instrument": "vocals", "model_type": kind,
        },
        "inference": {"batch_size": 1, "num_overlap": 1},
    }  # fmt: skip
    return Case({"kind": kind, "config": config, "shapes": shapes(network)}, {"stems": stems})
