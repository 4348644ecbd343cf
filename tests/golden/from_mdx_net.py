"""kuielab's MDX-Net as it is trained: its class ConvTDFNet on one chunk, and a published .onnx file of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from golden.files import FOLDER, Case
from golden.seeded import seeded_state, song
from golden.stubs import spectra_as_real_numbers, stub, write_onnx

SMALL = {"num_blocks": 5, "l": 2, "g": 6, "k": 3, "bn": 4, "bias": False}
TRANSFORM = {"n_fft": 160, "dim_f": 64, "dim_t": 16, "dim_c": 4, "hop_length": 64, "overlap": 80}
TRAINING = {"target_name": "vocals", "lr": 2e-4, "optimizer": "rmsprop"}
# An .onnx file cannot tell its hop, which is 1024 for all that were published.
PUBLIC = {"n_fft": 2048, "hop_length": 1024, "dim_f": 64, "dim_t": 16}

CONV_TDFS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "one linear layer": {"bn": 0},
    "one linear layer with bias": {"bn": 0, "bias": True},
    "no linear layers": {"bn": None},
    "4 scales, 3 convolutions of 5": {"num_blocks": 9, "l": 3, "k": 5},
}


def golden_files(_: Path) -> Iterator[tuple[str, dict[str, Case]]]:
    stub("src.utils", "src.utils.utils")
    spectra_as_real_numbers()
    yield "mdx_net", {name: _one_chunk(options) for name, options in CONV_TDFS.items()}
    network, _ = _network(PUBLIC)
    write_onnx(network, FOLDER / "mdx_net.onnx", PUBLIC["dim_f"], PUBLIC["dim_t"])


def _network(options: dict[str, Any]) -> tuple[torch.nn.Module, dict[str, list[int]]]:
    from src.models.mdxnet import ConvTDFNet

    network = ConvTDFNet(**TRAINING, **{**TRANSFORM, **SMALL, **options}, ckpt=None)
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    network.load_state_dict(state)
    return network.eval(), shapes


def _one_chunk(options: dict[str, Any]) -> Case:
    network, shapes = _network(options)
    chunk = song(network.chunk_size, silent=(0.7, 1))
    with torch.inference_mode():
        stem = network.istft(network(network.stft(torch.from_numpy(chunk)[None])))
    hyper_parameters = {**TRAINING, **TRANSFORM, **SMALL, **options}
    return Case({"hyper_parameters": hyper_parameters, "shapes": shapes}, {"stems": stem.numpy()})
