"""Demucs' bags htdemucs_ft, mdx and mdx_extra with small networks, levelled as `demucs` levels a song."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from golden.files import Case
from golden.small_demucs import FOUR, RATE, SEGMENTS, one_shift, small_demucs, whole_segments
from golden.systems import kept, music

# docs/training.md of demucs tells which see magnitudes, and which no spectrogram. Which of the members keep
# the old border nothing there tells: some of mdx_extra have it here.
# 7d865c68, which has weights of its own per band, is a plain HDemucs here: of bands is demucs_multi.
V4, WAVE, MAGNITUDES = ("HTDemucs", {}), ("Demucs", {}), ("HDemucs", {"cac": False})
OLD, PLAIN = ("HDemucs", {"cac": False, "hybrid_old": True}), ("HDemucs", {})
BAGS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "htdemucs_ft": {
        "f7e0c4bc-ba3fe64a": V4, "d12395a8-e57c48e6": V4, "92cfc3b6-ef3bcb9c": V4, "04573f0d-f3cf25b2": V4,
    },
    "mdx": {"0d19c1c6": WAVE, "7ecf8ec1": WAVE, "c511e2ab": MAGNITUDES, "7d865c68": PLAIN},
    "mdx_extra": {"e51eebcc": OLD, "a1d90b5c": PLAIN, "5d2d6c55": PLAIN, "cfa93e08": OLD},
}  # fmt: skip
LENGTHS = (1500, 4096, 4097, 12_000)


def golden_files(clone: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    cases = {"mdx, as it is": _case(clone, "mdx")}
    with whole_segments():
        cases |= {name: _case(clone, name) for name in BAGS}
    yield "demucs_bags", cases


def _case(clone: Path, name: str) -> Case:
    from demucs.apply import BagOfModels, apply_model

    files, seeds = BAGS[name], ("one", "two", "two", "one")
    made = [
        small_demucs(kind, seed, FOUR, **options)
        for (kind, options), seed in zip(files.values(), seeds, strict=True)
    ]
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
    chunk = [] if name == "htdemucs_ft" else ["--chunk", str(SEGMENTS["HDemucs"] / RATE)]
    facts = {f"{file}.th": {**said, "export": chunk} for file, (_, said) in zip(files, made, strict=True)}
    return Case({"files": facts, "lengths": LENGTHS}, outputs)
