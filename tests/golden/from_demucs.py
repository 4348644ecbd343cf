"""Demucs v3 and v4: its networks on one segment, and `apply_model` of whole songs."""

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golden.files import Case
from golden.seeded import noise, seeded_state, song, stand_in

SOURCES = ["drums", "vocals"]
SEGMENT, RATE = 16384, 44100  # samples, Hz; the public ones are of 7.8 s and more
STRIDE = 3  # every so many samples are kept, and of whole songs
SONG_STRIDE = 11
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": ("HTDemucs", {"channels": 8, "bottom_channels": 32, "t_layers": 3, "t_heads": 4}),
    "htdemucs, dconv in both": (
        "HTDemucs",
        {"channels": 8, "bottom_channels": 32, "t_layers": 3, "t_heads": 4, "dconv_mode": 3},
    ),
    "htdemucs without bottom": ("HTDemucs", {"channels": 8, "t_layers": 2, "t_heads": 4}),
    "hdemucs": ("HDemucs", {"channels": 8}),
    # 256 frames, more than the 200 of its LSTM's windows.
    "hdemucs of short frames": (
        "HDemucs",
        {"channels": 8, "nfft": 256, "depth": 4, "dconv_attn": 2, "dconv_lstm": 2, "norm_starts": 2},
    ),
}
# What members of the bags mdx and mdx_extra have.
OLD: dict[str, tuple[str, dict[str, Any]]] = {
    "magnitudes": ("HDemucs", {"channels": 8, "cac": False}),
    "the old border": ("HDemucs", {"channels": 8, "hybrid_old": True}),
}
# Cut at no whole bin of any level, with residual branches and context wherever bands have them.
MULTI: dict[str, tuple[str, dict[str, Any]]] = {
    "two bands": ("HDemucs", {"channels": 4, "multi_freqs": [0.3]}),
    "three bands, of magnitudes": (
        "HDemucs",
        {
            "channels": 4, "cac": False, "multi_freqs": [0.1, 0.55], "multi_freqs_depth": 3, "dconv_mode": 3,
            "context_enc": 1,
        },
    ),
    "bands of an htdemucs": (
        "HTDemucs",
        {"channels": 8, "bottom_channels": 16, "t_layers": 1, "t_heads": 2, "multi_freqs": [0.3]},
    ),
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    cases = {name: _segment(*network) for name, network in NETWORKS.items()}
    cases["htdemucs, a short segment"] = _segment(*NETWORKS["htdemucs"], samples=5001)
    cases["hdemucs, a short segment"] = _segment(*NETWORKS["hdemucs"], samples=5001)
    yield "demucs", cases
    yield "demucs_multi", {name: _segment(*network, stride=11) for name, network in MULTI.items()}
    yield "demucs_old", {name: _segment(*network, stride=11) for name, network in OLD.items()}
    songs = {}
    for name in ("htdemucs", "hdemucs"):
        for shifts, overlap in ((0, 0.25), (0, 0.5), (1, 0.25)):
            songs[f"{name}, {shifts} shifts, overlap {overlap}"] = _song(name, shifts, overlap)
    yield "demucs_apply_model", songs
    yield "demucs_scheme", dict(_scheme())


def _network(kind: str, options: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, Any]]:
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    build = {"HTDemucs": HTDemucs, "HDemucs": HDemucs}[kind]
    network = build(SOURCES, **options, samplerate=RATE, segment=Fraction(SEGMENT, RATE)).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    facts = {"kind": kind, "options": options, "sources": SOURCES, "segment": SEGMENT, "rate": RATE}
    return network, {**facts, "shapes": shapes}


def _segment(kind: str, options: dict[str, Any], samples: int = SEGMENT, stride: int = STRIDE) -> Case:
    network, facts = _network(kind, options)
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(samples))[None])[0]
    facts |= {"length": samples, "stride": stride}
    return Case(facts, {"stems": stems[..., ::stride].contiguous().numpy()})


def _song(name: str, shifts: int, overlap: float) -> Case:
    """As demucs.separate runs it: the song's mean and deviation are taken out first and put back after."""
    from demucs.apply import apply_model

    network, facts = _network(*NETWORKS[name])
    mix = torch.from_numpy(song(40_000))
    mono = mix.mean(0)
    random.seed(0)
    offsets = [random.randint(0, RATE // 2) for _ in range(shifts)]
    random.seed(0)
    with torch.inference_mode():
        levelled = (mix - mono.mean()) / (mono.std() + 1e-8)
        stems = apply_model(network, levelled[None], shifts=shifts, overlap=overlap)[0]
        stems = stems * (mono.std() + 1e-8) + mono.mean()
    facts |= {"length": 40_000, "stride": SONG_STRIDE, "overlap": overlap, "offsets": offsets}
    return Case(facts, {"stems": stems[..., ::SONG_STRIDE].contiguous().numpy()})


def _scheme() -> Iterator[tuple[str, Case]]:
    """`apply_model` alone, as it gives HTDemucs every chunk in one length, around every edge."""
    chunk, lengths = 96, (1, 2, 47, 71, 72, 73, 95, 96, 97, 143, 144, 145, 167, 168, 169, 301)
    for shifts, overlap in ((0, 0.0), (0, 0.25), (0, 0.5), (0, 0.9), (2, 0.25)):
        outputs = {str(length): _joined(chunk, shifts, overlap, noise(length)) for length in lengths}
        yield (
            f"{shifts} shifts, overlap {overlap}",
            Case({"chunk": chunk, "overlap": overlap, "shifts": shifts}, outputs),
        )


def _joined(chunk: int, shifts: int, overlap: float, mix: np.ndarray) -> np.ndarray:
    from demucs.apply import apply_model

    class Network(torch.nn.Module):
        samplerate, segment, sources = RATE, Fraction(chunk, RATE), SOURCES

        def valid_length(self, _: int) -> int:
            return chunk

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(stand_in(x[0].numpy()))[None]

    random.seed(0)
    return apply_model(Network(), torch.from_numpy(mix)[None], shifts=shifts, overlap=overlap)[0].numpy()
