"""audio-separator: MDX-Net and MDX-C from file to stems, its networks, and its ensembles of stems."""

import json
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from golden.files import FOLDER, Case
from golden.from_mdx_net import SMALL, TRAINING, TRANSFORM
from golden.from_sdx23 import CONFIG
from golden.seeded import noise, seeded_state, song, stand_in
from golden.stubs import spectra_as_real_numbers, stub

GROUP_NORMS: dict[str, dict[str, Any]] = {
    "GroupNorm": {"optimizer": "adamw"},
    "GroupNorm, bias": {"optimizer": "adamw", "bias": True},
    "BatchNorm": {"optimizer": "rmsprop"},
}
PAIR = {"instruments": ["Vocals", "Instrumental"], "target_instrument": None}
ENSEMBLES = (
    "avg_wave", "median_wave", "min_wave", "max_wave", "avg_fft", "median_fft", "min_fft", "max_fft",
    "uvr_max_spec", "uvr_min_spec", "ensemble_wav",
)  # fmt: skip


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("onnx2torch")  # for other segments than an .onnx file has
    spectra_as_real_numbers()
    yield "audio_separator_conv_tdf", {name: _conv_tdf(options) for name, options in GROUP_NORMS.items()}
    yield "audio_separator", {"MDX-Net": _mdx(), "MDX-C": _mdx_c(PAIR, 8), "MDX-C, 4": _mdx_c(PAIR, 4)}
    yield "audio_separator_ensembles", {name: _ensemble(name) for name in ENSEMBLES}
    yield "audio_separator_scheme", {str(step): _scheme(step) for step in (160, 100, 45)}


def _conv_tdf(options: dict[str, Any]) -> Case:
    """Its ConvTDFNet, which pairs adamw with GroupNorm, on one chunk."""
    from audio_separator.separator.uvr_lib_v5.mdxnet import ConvTDFNet
    from audio_separator.separator.uvr_lib_v5.stft import STFT

    hyper_parameters = {**TRAINING, **TRANSFORM, **SMALL, **options}
    network = ConvTDFNet(**hyper_parameters).eval()
    shapes, state = _seeded(network)
    network.load_state_dict(state)
    stft = STFT(logging.getLogger(), 160, 64, 64, torch.device("cpu"))
    chunk = song(64 * 15, silent=(0.7, 1))
    with torch.inference_mode():
        stem = stft.inverse(network(stft(torch.from_numpy(chunk)[None])))
    return Case({"hyper_parameters": hyper_parameters, "shapes": shapes}, {"stems": stem.numpy()})


def _seeded(network: torch.nn.Module) -> tuple[dict[str, list[int]], dict[str, torch.Tensor]]:
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    return shapes, {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}


def common(path: Path, model_data: dict[str, Any]) -> dict[str, Any]:
    return {
        "logger": logging.getLogger(), "log_level": 30, "torch_device": torch.device("cpu"),
        "onnx_execution_provider": ["CPUExecutionProvider"], "model_name": path.stem,
        "model_path": str(path), "model_data": model_data, "sample_rate": 44100,
        "normalization_threshold": 0.9, "amplification_threshold": 0.0,
    }  # fmt: skip


def _mdx() -> Case:
    """mdx_net.onnx at its default overlap of 0.25; its gain is left to whoever subtracts the stem."""
    from audio_separator.separator.architectures.mdx_separator import MDXSeparator

    data = {"compensate": 1.0, "mdx_dim_f_set": 64, "mdx_dim_t_set": 4, "mdx_n_fft_scale_set": 2048}
    options = {"segment_size": 16, "overlap": 0.25, "batch_size": 1, "hop_length": 1024}
    mdx = MDXSeparator(common(FOLDER / "mdx_net.onnx", data), {**options, "enable_denoise": False})
    outputs = {str(length): mdx.demix(song(length))[None] for length in (5000, 15361)}
    return Case({"n_fft": 2048, "overlap": 0.25}, outputs)


def _mdx_c(training: dict[str, Any], overlap: int) -> Case:
    from audio_separator.separator.architectures.mdxc_separator import MDXCSeparator
    from audio_separator.separator.uvr_lib_v5.tfc_tdf_v3 import TFC_TDF_net
    from ml_collections import ConfigDict

    config = json.loads(json.dumps({**CONFIG, "training": training}))
    shapes, state = _seeded(TFC_TDF_net(ConfigDict(config), device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.ckpt")
        torch.save(state, path)
        mdx_c = MDXCSeparator(common(path, config), {"overlap": overlap})
    lengths = (1, 1984, 3001)
    outputs = {str(length): np.stack(list(mdx_c.demix(song(length)).values())) for length in lengths}
    return Case({"config": config, "shapes": shapes, "number": overlap}, outputs)


def _scheme(step: int) -> Case:
    """MDXCSeparator's chunks of a Roformer, with the stand-in; a sample is a second to it."""
    from audio_separator.separator.architectures.mdxc_separator import MDXCSeparator
    from ml_collections import ConfigDict

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(()))

        def forward(self, chunks: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.stack([stand_in(chunk) for chunk in chunks.numpy()]))

    separator = MDXCSeparator.__new__(MDXCSeparator)
    vars(separator).update(
        logger=logging.getLogger(), pitch_shift=0, is_roformer=True, override_model_segment_size=False,
        overlap=step, model_run=Network(), is_primary_stem_main_target=False,
        model_data_cfgdict=ConfigDict({
            "audio": {"hop_length": 10, "sample_rate": 1}, "model": {"stft_hop_length": 10},
            "training": {"instruments": ["0", "1"], "target_instrument": None}, "inference": {"dim_t": 17},
        }),
    )  # fmt: skip
    lengths = (160, 161, 205, 260, 319, 320, 321, 777)
    outputs = {str(length): np.stack(list(separator.demix(noise(length)).values())) for length in lengths}
    return Case({"chunk": 160, "step": step}, outputs)


def _ensemble(algorithm: str) -> Case:
    """Three stems of one length, with weights where the algorithm takes any."""
    from audio_separator.separator.ensembler import Ensembler

    stems = ensemble_stems()
    weights = [1.0, 2.0, 0.5]
    found = Ensembler(logging.getLogger(), algorithm, weights).ensemble([stem.copy() for stem in stems])
    return Case({"algorithm": algorithm, "weights": weights}, {"stem": np.asarray(found, np.float32)})


def ensemble_stems() -> list[np.ndarray]:
    """Three songs of 6000 samples, the second with a pause."""
    loud, pause = song(6000), song(6000, silent=(0.3, 0.6))
    return [loud, np.ascontiguousarray(pause[::-1]) * np.float32(0.5), loud[:, ::-1] * np.float32(0.75)]
