"""Demucs v1: one chunk, and `apply_model` of a whole song."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import Case
from golden.from_demucs_wave import seed
from golden.seeded import song

RATE = 8000  # Hz: v1 cuts a song every 10 s
SOURCES = ["drums", "bass", "other", "vocals"]  # v1 only knows their number
LENGTH = 200_000
STRIDE, SONG_STRIDE = 101, 211


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    yield "demucs_v1", {"demucs_v1": _case(10 * RATE, STRIDE), "song": _case(LENGTH, SONG_STRIDE)}


def _case(length: int, stride: int) -> Case:
    from demucs.model import Demucs
    from demucs.utils import apply_model

    options: dict[str, Any] = {"channels": 8, "depth": 5}
    network = Demucs(sources=len(SOURCES), samplerate=RATE, **options).eval()
    facts = seed(network, options=options, sources=SOURCES, segment=10 * RATE, rate=RATE)
    mix = torch.from_numpy(song(length))
    mono = mix.mean(0)
    with torch.inference_mode():
        levelled = (mix - mono.mean()) / mono.std()
        stems = apply_model(network, levelled, split=True) * mono.std() + mono.mean()
    facts |= {"length": length, "stride": stride}
    return Case(facts, {"stems": stems[..., ::stride].contiguous().numpy()})
