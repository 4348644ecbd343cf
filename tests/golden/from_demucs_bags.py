"""Demucs' bags htdemucs_ft, mdx and mdx_extra with small networks, levelled as `demucs` levels a song."""

from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from golden.files import Case
from golden.small_demucs import FOUR, RATE, SEGMENTS, one_shift, small_demucs, whole_segments
from golden.systems import kept, music

# Of the four networks of a bag two are one.
BAGS = {
    "htdemucs_ft": (
        "HTDemucs", ["f7e0c4bc-ba3fe64a", "d12395a8-e57c48e6", "92cfc3b6-ef3bcb9c", "04573f0d-f3cf25b2"]
    ),
    "mdx": ("HDemucs", ["0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"]),
    "mdx_extra": ("HDemucs", ["e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"]),
}  # fmt: skip
LENGTHS = (1500, 4096, 4097, 12_000)


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    cases = {"mdx, as it is": _case(clone, "mdx")}
    with whole_segments():
        cases |= {name: _case(clone, name) for name in BAGS}
    yield "demucs_bags", cases


def _case(clone: Path, name: str) -> Case:
    from demucs.apply import BagOfModels, apply_model

    kind, files = BAGS[name]
    made = [small_demucs(kind, seed, FOUR) for seed in ("one", "two", "two", "one")]
    told = yaml.safe_load((clone / "demucs" / "remote" / f"{name}.yaml").read_text())
    assert [file.partition("-")[0] for file in files] == told["models"]
    bag = BagOfModels([network for network, _ in made], told.get("weights"))
    outputs = {}
    for length in LENGTHS:
        song = torch.from_numpy(music(length))
        mono = song.mean(0)
        with one_shift(), torch.inference_mode():
            level, deviation = mono.mean(), mono.std() + 1e-8
            stems = apply_model(bag, ((song - level) / deviation)[None], shifts=1, overlap=0.25)[0]
            stems = stems * deviation + level
        outputs |= {f"{length} {stem}": kept(stems[i].numpy()) for i, stem in enumerate(FOUR)}
    # The recipes give the segment of the bag, 44 s.
    chunk = ["--chunk", str(SEGMENTS[kind] / RATE)] if kind == "HDemucs" else []
    facts = {f"{file}.th": {**said, "export": chunk} for file, (_, said) in zip(files, made, strict=True)}
    return Case({"files": facts, "lengths": LENGTHS}, outputs)
