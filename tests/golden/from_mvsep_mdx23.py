"""MVSEP's `demix_full`: long slices of a song, each separated as kuielab does, averaged."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import torch

from golden.files import FOLDER, Case
from golden.seeded import integers, noise, song, stand_in
from golden.stubs import stub

SLICE = 1_000_000  # on a GPU
STRIDE = 101  # of a long song, every so many samples are kept


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("demucs", "demucs.states", "demucs.apply")
    yield "mvsep_mdx23", {"a slice and more": _song()}
    yield "mvsep_mdx23_scheme", dict(_scheme())


def _song() -> Case:
    """mdx_net.onnx, which has 64 bins of an n_fft of 2048 and 16 frames; Kim's have 3072 of 7680 and 256."""
    from inference import Conv_TDF_net_trim_model, demix_full

    model = Conv_TDF_net_trim_model("cpu", "vocals", L=11, n_fft=8192)
    model.n_fft, model.n_bins, model.dim_f, model.dim_t = 2048, 1025, 64, 16
    model.chunk_size, model.window = 1024 * 15, torch.hann_window(2048)
    model.freq_pad = torch.zeros(1, 4, 1025 - 64, 16)
    session = onnxruntime.InferenceSession(FOLDER / "mdx_net.onnx", providers=["CPUExecutionProvider"])
    length = SLICE + 150_000
    stem = demix_full(song(length), "cpu", SLICE, [model], session, overlap=0.6)
    facts = {"length": length, "stride": STRIDE, "overlap": 0.6, "n_fft": 2048}
    return Case(facts, {"stems": stem[..., ::STRIDE]})


def _scheme() -> Iterator[tuple[str, Case]]:
    """`demix_full` alone: slices that lie over each other, end to end, and shorter than a chunk."""
    chunk, n_fft, gen = 96, 16, 80
    edges = [1, gen, chunk + 1, 100, 101, 249, 250, 251, 350, 777]
    for name, length, overlap in (("over", 250, 0.6), ("apart", 250, 0.0), ("short", 70, 0.66)):
        yield name, _scheme_case(chunk, n_fft, length, overlap, edges)
    ranges = (40, 120), (1, 16), (0, 95), (1, 701)
    for chunk, half, percent, length in integers("outer any numbers", 20, *ranges):
        numbers = chunk, 2 * half, 150, percent / 100
        yield f"any {numbers} {length}", _scheme_case(*numbers, [length])


def _scheme_case(chunk: int, n_fft: int, slice_: int, overlap: float, lengths: list[int]) -> Case:
    facts: dict[str, Any] = {"chunk": chunk, "n_fft": n_fft, "slice": slice_, "overlap": overlap}
    return Case(facts, {str(length): _stand_in(facts, noise(length)) for length in lengths})


def _stand_in(facts: dict[str, Any], mix: np.ndarray) -> np.ndarray:
    from inference import demix_full

    as_it_is = SimpleNamespace(
        n_fft=facts["n_fft"], chunk_size=facts["chunk"], stft=lambda x: x, istft=lambda x: x
    )
    stems = []
    for stem in (0, 1):

        def run(_: None, inputs: dict[str, np.ndarray], stem: int = stem) -> list[np.ndarray]:
            return [np.stack([stand_in(item)[stem] for item in inputs["input"]])]

        session = SimpleNamespace(run=run)
        stems.append(demix_full(mix, "cpu", facts["slice"], [as_it_is], session, facts["overlap"])[0])
    return np.stack(stems)
