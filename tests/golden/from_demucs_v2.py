"""Demucs v2: its networks on one segment of a valid length, and `apply_model` of whole songs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.from_demucs_wave import RATE, SEGMENT, SONG_STRIDE, SOURCES, STRIDE, seed
from golden.seeded import song

NETWORKS: dict[str, dict[str, Any]] = {
    "demucs_v2": {"channels": 8},
    "demucs_v2 at the song's rate": {
        "channels": 8, "depth": 3, "resample": False, "normalize": True, "context": 1, "lstm_layers": 1,
    },
}  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    cases = {name: _segment(name) for name in NETWORKS}
    yield "demucs_v2", cases | {f"song, overlap {overlap}": _song(overlap) for overlap in (0.25, 0.5)}


def _network(name: str) -> tuple[Any, dict[str, Any]]:
    from demucs.model import Demucs

    options = NETWORKS[name]
    network = Demucs(SOURCES, **options, samplerate=RATE, segment_length=SEGMENT).eval()
    return network, seed(network, options=options)


def _segment(name: str) -> Case:
    """As `apply_model` gives it what is cut: of a valid length, zeros around it here, and trimmed after."""
    from demucs.utils import apply_model

    network, facts = _network(name)
    with torch.inference_mode():
        stems = apply_model(network, torch.from_numpy(song(SEGMENT)))
    return Case(facts | {"stride": STRIDE}, {"stems": stems[..., ::STRIDE].contiguous().numpy()})


def _song(overlap: float) -> Case:
    from demucs.utils import apply_model

    network, facts = _network("demucs_v2")
    mix = torch.from_numpy(song(40_000))
    mono = mix.mean(0)
    with torch.inference_mode():
        levelled = (mix - mono.mean()) / mono.std()
        stems = apply_model(network, levelled, split=True, overlap=overlap) * mono.std() + mono.mean()
    facts |= {"length": 40_000, "stride": SONG_STRIDE, "overlap": overlap, "offsets": []}
    return Case(facts, {"stems": stems[..., ::SONG_STRIDE].contiguous().numpy()})
