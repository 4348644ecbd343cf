"""mvsepless: unwa's Siamese Roformer on one chunk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.from_msst import BS, BS_CHUNK, SMALL, shapes
from golden.seeded import seeded_state, song

CASES: dict[str, dict[str, Any]] = {
    "siamese": {"depth": 3},
    "siamese, two blocks, two stems": {
        "time_transformer_depth": 2, "freq_transformer_depth": 1, "num_stems": 2,
    },
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "siamese", {name: _case(options) for name, options in CASES.items()}


def _case(options: dict[str, Any]) -> Case:
    from models.bs_roformer.bs_siamese_roformer import BSSiameseRoformer

    model = {**SMALL, **BS, **options}
    network = BSSiameseRoformer(**model).eval()
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes(network)).items()}
    )
    chunk = song(BS_CHUNK, 2, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None]).reshape(-1, *chunk.shape).numpy()
    config = {
        "audio": {"sample_rate": 44100, "chunk_size": BS_CHUNK},
        "model": {**model, "freqs_per_bands": list(model["freqs_per_bands"]), "zero_dc": False},
        "training": {"instruments": ["vocals", "other"]}
        | ({"target_instrument": "vocals"} if len(stems) == 1 else {}),
        "inference": {"batch_size": 1, "num_overlap": 1},
    }
    return Case({"config": config, "shapes": shapes(network)}, {"stems": stems})
