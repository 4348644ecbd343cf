"""MVSEP-MDX23 as a whole with small networks of its kinds: its MDX-Nets, and Demucs' own `apply_model`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from golden.files import FOLDER, Case
from golden.small_demucs import FOUR, one_shift, small_demucs, whole_segments
from golden.stubs import stub
from golden.systems import flipped_kernels, kept, music

# A Demucs' chunk is 4096 or 2048 samples, an MDX-Net's gives 15 x 1024 - 2048 = 13312.
LENGTHS = (1500, 4096, 13_313, 27_000)
# The bag htdemucs_ft has four networks; two of the four are one.
DEMUCS = {
    "f7e0c4bc-ba3fe64a.th": ("HTDemucs", "one", FOUR),
    "d12395a8-e57c48e6.th": ("HTDemucs", "two", FOUR),
    "92cfc3b6-ef3bcb9c.th": ("HTDemucs", "one", FOUR),
    "04573f0d-f3cf25b2.th": ("HTDemucs", "two", FOUR),
    "955717e8-8726e21a.th": ("HTDemucs", "one", FOUR),
    "5c90dfd2-34c22ccb.th": ("HTDemucs", "six", [*FOUR, "guitar", "piano"]),
    "75fc33f5-1941ce65.th": ("HDemucs", "one", FOUR),
}
MDX = {"Kim_Vocal_2.onnx": "", "Kim_Inst.onnx": "flipped"}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("librosa")
    cases = {"as it is": _case(LENGTHS, single=False)}
    with whole_segments():
        cases["two MDX-Nets"] = _case(LENGTHS, single=False)
        cases["single_onnx"] = _case(LENGTHS[2:3], single=True)
    yield "mvsep_networks", cases


def _session(seed: str) -> onnxruntime.InferenceSession:
    graph = onnx.load(FOLDER / "mdx_net.onnx")
    for tensor in graph.graph.initializer if seed else []:
        flipped = np.ascontiguousarray(flipped_kernels(onnx.numpy_helper.to_array(tensor)))
        tensor.CopyFrom(onnx.numpy_helper.from_array(flipped, tensor.name))
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def _transform() -> Any:
    """Kim's have 3072 bins of an n_fft of 7680 and 256 frames; mdx_net.onnx has 64 of 2048, and 16."""
    from inference import Conv_TDF_net_trim_model

    model = Conv_TDF_net_trim_model("cpu", "vocals", L=11, n_fft=8192)
    model.n_fft, model.n_bins, model.dim_f, model.dim_t = 2048, 1025, 64, 16
    model.chunk_size, model.window = 1024 * 15, torch.hann_window(2048)
    model.freq_pad = torch.zeros(1, 4, 1025 - 64, 16)
    return model


def _case(lengths: tuple[int, ...], *, single: bool) -> Case:
    from demucs.apply import BagOfModels
    from inference import EnsembleDemucsMDXMusicSeparationModel as Ensemble

    made = {name: small_demucs(*network) for name, network in DEMUCS.items()}
    networks = [network for network, _ in made.values()]
    bag = BagOfModels(networks[:4], [[float(i == j) for j in range(4)] for i in range(4)])
    model = Ensemble.__new__(Ensemble)  # whose __init__ downloads
    model.device, model.chunk_size, model.single_onnx = "cpu", 1_000_000, single
    model.overlap_large, model.overlap_small = 0.6, 0.5
    model.infer_session1, model.infer_session2 = (_session(seed) for seed in MDX.values())
    model.mdx_models1 = model.mdx_models2 = [_transform()]
    model.model_vocals_only, model.models = networks[3], [bag, *networks[4:]]
    model.weights_vocals, model.weights_bass = np.array([10, 1, 8, 9]), np.array([19, 4, 5, 8])
    model.weights_drums, model.weights_other = np.array([18, 2, 4, 9]), np.array([14, 2, 5, 10])
    outputs = {}
    for length in lengths:
        with one_shift(), torch.inference_mode():
            stems, _ = model.separate_music_file(music(length).T, 44100)
        outputs |= {f"{length} {name}": kept(stem.T) for name, stem in stems.items()}
    files = {name: facts for name, (_, facts) in made.items()}
    files |= {n: {"form": "onnx", "seed": seed, "export": ["--n-fft", "2048"]} for n, seed in MDX.items()}
    return Case({"files": files, "lengths": lengths}, outputs)
