"""MSST-WebUI: BS-Roformer with Fourier neural operators (of neuraloperator 2.0) as mask estimators."""

from collections.abc import Iterator
from pathlib import Path

import torch

from golden.files import Case
from golden.from_msst import BS, BS_CHUNK, SMALL
from golden.seeded import seeded_state, song

# The operator keeps 33 frequencies: one chunk has more, another has fewer.
CASES = {"fno": 4 * BS_CHUNK, "fno, short": BS_CHUNK}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "fno", {name: _case(samples) for name, samples in CASES.items()}


def _case(samples: int) -> Case:
    from modules.bs_roformer import BSRoformer

    model = {**SMALL, **BS, "use_mask_estimator_fno": True}
    network = BSRoformer(**model).eval()
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    # A complex number is two of the seeded ones, the last axis of its shape.
    complexes = [name for name, tensor in tensors.items() if tensor.is_complex()]
    shapes = {name: list(tensor.shape) + [2] * tensor.is_complex() for name, tensor in tensors.items()}
    seeded = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    for name, parameter in network.named_parameters():
        value = seeded[name]
        parameter.data.copy_(torch.view_as_complex(value) if name in complexes else value)
    chunk = song(samples, 2, silent=(0.7, 1))
    with torch.inference_mode():
        stems = network(torch.from_numpy(chunk)[None]).reshape(-1, *chunk.shape).numpy()
    config = {
        "audio": {"sample_rate": 44100, "chunk_size": samples},
        "model": {**model, "freqs_per_bands": list(model["freqs_per_bands"]), "zero_dc": False},
        "training": {"instruments": ["other", "vocals"], "target_instrument": "other"},
        "inference": {"batch_size": 1, "num_overlap": 1},
    }
    return Case({"config": config, "shapes": shapes, "complex": complexes}, {"stems": stems})
