"""Demucs of one branch, as v3 has it: its networks on one segment, and `apply_model` of whole songs."""

import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.seeded import seeded_state, song

SOURCES = ["drums", "vocals"]
SEGMENT, RATE = 16384, 44100  # samples, Hz; the public ones are of 10 to 44 s
STRIDE = 11  # every so many samples are kept, and of whole songs
SONG_STRIDE = 31
NETWORKS: dict[str, dict[str, Any]] = {
    "demucs": {"channels": 8},
    # 512 steps, more than the 200 of its LSTM's windows.
    "demucs of long levels": {
        "channels": 8, "depth": 3, "dconv_attn": 2, "dconv_lstm": 2, "norm_starts": 1, "norm_groups": 2,
    },
    "demucs at the song's rate": {
        "channels": 8, "depth": 4, "resample": False, "normalize": False, "dconv_mode": 3, "context": 2,
    },
    # The network of v2 as v3 trained it anew.
    "demucs without branches": {
        "channels": 8, "depth": 4, "dconv_mode": 0, "gelu": False, "lstm_layers": 2, "normalize": False,
    },
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    cases = {name: _segment(name) for name in NETWORKS}
    for shifts, overlap in ((0, 0.25), (0, 0.5), (1, 0.25)):
        cases[f"song, {shifts} shifts, overlap {overlap}"] = _song(shifts, overlap)
    yield "demucs_wave", cases


def seed(network: torch.nn.Module, **facts: Any) -> dict[str, Any]:
    """Give a network seeded weights; the facts of it."""
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    return {"kind": "Demucs", "sources": SOURCES, "segment": SEGMENT, "rate": RATE, "shapes": shapes} | facts


def _network(name: str) -> tuple[Any, dict[str, Any]]:
    from demucs.demucs import Demucs

    options = NETWORKS[name]
    network = Demucs(SOURCES, **options, samplerate=RATE, segment=Fraction(SEGMENT, RATE)).eval()
    return network, seed(network, options=options)


def _segment(name: str) -> Case:
    network, facts = _network(name)
    with torch.inference_mode():
        stems = network(torch.from_numpy(song(SEGMENT))[None])[0]
    return Case(facts | {"stride": STRIDE}, {"stems": stems[..., ::STRIDE].contiguous().numpy()})


def _song(shifts: int, overlap: float) -> Case:
    from demucs.apply import apply_model

    network, facts = _network("demucs")
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
