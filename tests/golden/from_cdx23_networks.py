"""MVSEP-CDX23 with --high_quality, small networks in the place of its three HTDemucs."""

from collections.abc import Iterator
from pathlib import Path

import torch

from golden.files import Case
from golden.small_demucs import one_shift, small_demucs
from golden.stubs import stub
from golden.systems import kept, music

# Their own names of stems, in whatever order; the script and the recipe count them.
SOURCES = ["a", "b", "c"]
NETWORKS = {"97d170e1-a778de4a.th": "one", "97d170e1-dbb4db15.th": "two", "97d170e1-e41a5468.th": "one"}
LENGTHS = (1500, 4096, 4097, 12_000)


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("librosa")
    from inference import Demucs4_SeparationModel

    made = {name: small_demucs("HTDemucs", seed, SOURCES) for name, seed in NETWORKS.items()}
    model = Demucs4_SeparationModel.__new__(Demucs4_SeparationModel)  # whose __init__ downloads
    model.device, model.models = "cpu", [network for network, _ in made.values()]
    outputs = {}
    for length in LENGTHS:
        with one_shift(), torch.inference_mode():
            stems, _ = model.separate_music_file(music(length).T, 44100)
        outputs |= {f"{length} {name}": kept(stem.T) for name, stem in stems.items()}
    files = {name: facts for name, (_, facts) in made.items()}
    yield "cdx23_networks", {"high quality": Case({"files": files, "lengths": LENGTHS}, outputs)}
