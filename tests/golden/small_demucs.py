"""Small seeded networks of Demucs' kinds, for the systems that are made of them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import torch

from golden.seeded import seeded_state
from golden.systems import OFFSET

RATE = 44100
FOUR = ["drums", "bass", "other", "vocals"]
SEGMENTS = {"HTDemucs": 4096, "HDemucs": 2048, "Demucs": 2048}
OPTIONS: dict[str, dict[str, Any]] = {
    "HTDemucs": {"channels": 8, "depth": 2, "nfft": 512, "t_layers": 1, "t_heads": 2, "dconv_depth": 1},
    "HDemucs": {
        "channels": 4, "depth": 3, "nfft": 64, "dconv_depth": 1, "dconv_lstm": 2, "dconv_attn": 2,
        "norm_starts": 2,
    },
    "Demucs": {
        "channels": 4, "depth": 3, "dconv_depth": 1, "dconv_comp": 2, "dconv_lstm": 2, "dconv_attn": 2,
        "norm_starts": 2,
    },
}  # fmt: skip


def small_demucs(kind: str, seed: str, sources: list[str], **more: Any) -> tuple[Any, dict[str, Any]]:
    """A network as demucs loads it, whose file has weights in half precision; the facts of that file."""
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    build = {"HTDemucs": HTDemucs, "HDemucs": HDemucs, "Demucs": Demucs}[kind]
    segment, options = Fraction(SEGMENTS[kind], RATE), OPTIONS[kind] | more
    network = build(sources, **options, samplerate=RATE, segment=segment).eval()
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes, seed).items()}
    network.load_state_dict({name: tensor.half().float() for name, tensor in state.items()})
    facts = {"form": "demucs", "kind": kind, "options": options, "sources": sources}
    return network, {**facts, "segment": SEGMENTS[kind], "rate": RATE, "shapes": shapes, "seed": seed}


@contextmanager
def one_shift() -> Iterator[None]:
    """Every shift that demucs draws is of OFFSET samples."""
    with patch.object(random, "randint", lambda *_: OFFSET):
        yield


@contextmanager
def whole_segments() -> Iterator[None]:
    """A v3 gets its last chunk in the length of the others, with what is around it, as a v4 does."""
    from demucs.demucs import Demucs
    from demucs.hdemucs import HDemucs

    valid, whole = Demucs.valid_length, SEGMENTS["Demucs"]
    with (
        patch.object(HDemucs, "valid_length", lambda *_: SEGMENTS["HDemucs"], create=True),
        patch.object(Demucs, "valid_length", lambda network, length: valid(network, max(length, whole))),
    ):
        yield
