"""splifft: HyperACE 1 and 2 and Large-Inst v2, whose networks give masks, on one chunk."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from golden.files import Case
from golden.from_msst import BS, SMALL
from golden.seeded import seeded_state, song

# HyperACE's encoder halves frames five times. With seeded weights each of its hundred norms adds 1 dB to what
# rounding has done: in float32 it is 85 and 71 dB from itself in float64, so it runs in float64.
SAMPLES = 8192

CASES: dict[str, dict[str, Any]] = {
    "hyperace 1": {"kind": "hyperace_residual_v1"},
    "hyperace 2": {"kind": "hyperace_residual_v2"},
    "large inst": {"kind": "axial_refiner_large_v2"},
}


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    # Its __init__ imports what only its programs need.
    package = sys.modules["splifft"] = ModuleType("splifft")
    package.__path__ = [str(clone / "src/splifft")]
    yield "unwa", {name: _case(options) for name, options in CASES.items()}


def _case(estimator: dict[str, Any]) -> Case:
    from splifft.models import bs_roformer as own

    kinds = {
        "hyperace_residual_v1": own.HyperAceResidualV1MaskEstimatorConfig,
        "hyperace_residual_v2": own.HyperAceResidualV2MaskEstimatorConfig,
        "axial_refiner_large_v2": own.AxialRefinerLargeV2MaskEstimatorConfig,
    }
    # Its refiner has 8 heads of 64 whatever the network has.
    model = {**SMALL, "heads": 8, "dim_head": 64, **BS}
    network = own.BSRoformer(
        own.BSRoformerParams(
            chunk_size=SAMPLES, output_stem_names=("other",), dim=model["dim"], depth=model["depth"],
            band_config=own.FixedBandsConfig("fixed", BS["freqs_per_bands"]),
            stft_hop_length=BS["stft_hop_length"], heads=8,
            mlp_expansion_factor=model["mlp_expansion_factor"],
            mask_estimator=kinds[estimator["kind"]](**estimator),
        )
    ).eval()  # fmt: skip
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()})
    double = estimator["kind"].startswith("hyperace")
    network = network.double() if double else network
    _rotate_by(own, network, seeded_state({"freqs": [32]})["freqs"])
    rotary = [name.replace("to_qkv.weight", "rotary_embed.freqs") for name in shapes if "to_qkv" in name]
    dtype = torch.float64 if double else torch.float32
    chunk = torch.from_numpy(song(SAMPLES, 2, silent=(0.7, 1))).to(dtype)
    window = torch.hann_window(BS["stft_n_fft"], dtype=dtype)
    spectrum = torch.stft(chunk, BS["stft_n_fft"], BS["stft_hop_length"], window=window, return_complex=True)
    with torch.inference_mode():
        packed = torch.view_as_real(spectrum).transpose(0, 1).flatten(0, 1)  # (bins * channels, frames, 2)
        mask = torch.view_as_complex(network(packed[None])[0, 0].contiguous())
    stem = spectrum * mask.unflatten(0, (-1, 2)).transpose(0, 1)
    stem[:, 0] = 0
    stems = torch.istft(stem, BS["stft_n_fft"], BS["stft_hop_length"], window=window, length=chunk.shape[-1])
    config = {
        "audio": {"sample_rate": 44100, "chunk_size": SAMPLES},
        "model": {**model, "freqs_per_bands": list(BS["freqs_per_bands"])},
        "training": {"instruments": ["other", "vocals"], "target_instrument": "other"},
        "inference": {"batch_size": 1, "num_overlap": 1},
    }
    shapes |= {name: [32] for name in rotary}
    return Case(
        {"config": config, "shapes": shapes, "float64": double}, {"stems": stems[None].float().numpy()}
    )


def _rotate_by(own: ModuleType, network: torch.nn.Module, freqs: np.ndarray) -> None:
    """It computes angles where the author's files hold frequencies: give it those of the files."""
    for module in network.modules():
        if isinstance(module, own.RotaryEmbedding):
            positions = torch.arange(len(module.cos_emb)).float()
            angles = (positions[:, None] * torch.from_numpy(freqs)).repeat_interleave(2, dim=1).double()
            module.cos_emb, module.sin_emb = angles.cos().float(), angles.sin().float()
