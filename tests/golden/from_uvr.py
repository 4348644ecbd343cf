"""Ultimate Vocal Remover: its ways of cutting a song for MDX-Net and for MDX-C, and MDX-Net as a whole."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from golden.files import FOLDER, Case
from golden.seeded import integers, noise, song, stand_in
from golden.stubs import spectra_as_real_numbers, stub

COMPENSATE = 1.035


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    demucs = ("apply", "hdemucs", "model_v2", "pretrained", "utils")
    stub("onnx2pytorch", "demucs", *(f"demucs.{name}" for name in demucs), "audioread", "pydub")
    stub("lib_v5.vr_network", "lib_v5.vr_network.model_param_init", "lib_v5.spec_utils", "lib_v5.mdxnet")
    spectra_as_real_numbers()
    yield "uvr_mdx", {f"overlap {overlap}": _song(overlap) for overlap in ("Default", 0.25, 0.0)}
    yield "uvr_mdx_scheme", dict(_scheme())
    yield "uvr_mdx_c_scheme", {str(number): _mdx_c_scheme(number) for number in (1, 2, 8, 96)}


def _mdx(chunk: int, hop: int, n_fft: int, dim_f: int, overlap: float | str) -> Any:
    import separate

    mdx = separate.SeperateMDX.__new__(separate.SeperateMDX)
    mdx.n_fft, mdx.hop, mdx.dim_f, mdx.mdx_segment_size = n_fft, hop, dim_f, chunk // hop + 1
    mdx.device, mdx.mdx_batch_size, mdx.adjust = torch.device("cpu"), 1, 1
    mdx.overlap_mdx, mdx.compensate = overlap, 1
    mdx.is_pitch_change = mdx.is_denoise = mdx.is_denoise_model = False
    mdx.running_inference_progress_bar = lambda *_, **__: None
    return mdx


def _song(overlap: float | str) -> Case:
    """mdx_net.onnx: 64 bins of an n_fft of 2048, 16 frames; its output times `compensate`."""
    mdx = _mdx(1024 * 15, 1024, 2048, 64, overlap)
    mdx.compensate = COMPENSATE
    session = onnxruntime.InferenceSession(FOLDER / "mdx_net.onnx", providers=["CPUExecutionProvider"])
    mdx.model_run = lambda spek: session.run(None, {"input": spek.numpy()})[0]
    outputs = {}
    for length in (1, 26625):
        # The lowest bins, which are silenced, must hold something that is missed.
        mix = song(length) + np.float32(0.25)
        outputs[str(length)] = mdx.demix(mix)[None].astype(np.float32)
    return Case({"overlap": overlap, "compensate": COMPENSATE, "n_fft": 2048}, outputs)


def _scheme() -> Iterator[tuple[str, Case]]:
    """SeperateMDX.demix alone."""
    chunk, n_fft, gen = 96, 16, 80
    lengths = [1, n_fft // 2, gen - 1, gen, gen + 1, chunk - 1, chunk, chunk + 1, 2 * gen, 2 * chunk, 777]
    for overlap in ("Default", 0.0, 0.02, 0.25, 0.95):
        yield f"{overlap}", _scheme_case(chunk, n_fft, overlap, lengths)
    ranges = (40, 120), (1, 16), (3, 96), (1, 701)
    for chunk, half, percent, length in integers("hann any numbers", 30, *ranges):
        numbers = chunk, 2 * half, percent / 100
        yield f"any {numbers} {length}", _scheme_case(*numbers, [length])


def _scheme_case(chunk: int, n_fft: int, overlap: float | str, lengths: list[int]) -> Case:
    outputs = {}
    for length in lengths:
        stems = []
        for stem in (0, 1):
            mdx = _mdx(chunk, 1, n_fft, 1, overlap)
            mdx.run_model = lambda mix, stem=stem, **_: stand_in(mix.numpy()[0])[stem][None]
            stems.append(mdx.demix(noise(length)))
        # Where only zeros of windows meet, the tool has no number.
        outputs[str(length)] = np.nan_to_num(np.stack(stems)).astype(np.float32)
    return Case({"chunk": chunk, "n_fft": n_fft, "overlap": overlap}, outputs)


def _mdx_c_scheme(number: int) -> Case:
    import separate
    from ml_collections import ConfigDict

    class Network:
        num_target_instruments = 2

        def __init__(self, *_: object, **__: object) -> None: ...
        def load_state_dict(self, _: object) -> None: ...
        def to(self, _: object) -> "Network":
            return self

        def eval(self) -> None: ...
        def __call__(self, chunks: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.stack([stand_in(item) for item in chunks.numpy()]))

    separate.TFC_TDF_net = Network
    mdx_c = separate.SeperateMDXC.__new__(separate.SeperateMDXC)
    mdx_c.is_pitch_change = mdx_c.is_denoise_model = False
    mdx_c.mdx_c_configs = ConfigDict(
        {"audio": {"hop_length": 1}, "inference": {"dim_t": 97}, "training": {"instruments": ["a", "b"]}}
    )
    mdx_c.is_mdx_c_seg_def, mdx_c.mdx_segment_size = True, 0
    mdx_c.mdx_batch_size, mdx_c.overlap_mdx23, mdx_c.device = 1, number, torch.device("cpu")
    mdx_c.running_inference_progress_bar = lambda *_, **__: None
    outputs = {}
    with tempfile.TemporaryDirectory() as folder:
        mdx_c.model_path = Path(folder, "empty.ckpt")
        torch.save({}, mdx_c.model_path)
        for length in (1, 95, 96, 97, 301):
            outputs[str(length)] = np.stack(list(mdx_c.demix(noise(length)).values()))
    return Case({"chunk": 96, "number": number}, outputs)
