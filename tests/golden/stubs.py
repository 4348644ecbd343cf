"""What old tools need to run with today's libraries: what they import and never use, what used to be so."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn


def stub(*modules: str) -> None:
    """Let these modules be imported; whatever is taken from them does nothing."""
    for name in modules:
        sys.modules[name] = MagicMock()


def bare_package(name: str, folder: Path) -> None:
    """Let modules of a package be imported without its __init__, which imports a whole training."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__path__ = [str(folder)]


def spectra_as_real_numbers() -> None:
    """torch.stft and torch.istft as they were before PyTorch 1.8: two real numbers for a complex one."""
    stft, istft = torch.stft, torch.istft

    def real_stft(*args: object, **options: object) -> Tensor:
        if options.pop("return_complex", False):
            return stft(*args, **options, return_complex=True)
        return torch.view_as_real(stft(*args, **options, return_complex=True))

    def real_istft(spectrum: Tensor, *args: object, **options: object) -> Tensor:
        if not spectrum.is_complex():
            spectrum = torch.view_as_complex(spectrum.contiguous())
        return istft(spectrum, *args, **options)

    torch.stft, torch.istft = real_stft, real_istft


def without_a_gpu() -> None:
    """`.cuda()` of tools that know nothing else."""
    torch.Tensor.cuda = lambda tensor, *_: tensor
    nn.Module.cuda = lambda module, *_: module


def write_onnx(network: nn.Module, path: Path, dim_f: int, dim_t: int) -> None:
    """`network` as MDX-Net's .onnx files are published: opset 13, a dynamic batch, names input and output."""
    axes = {name: {0: "batch"} for name in ("input", "output")}
    with torch.inference_mode():
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 4, dim_f, dim_t),), path, dynamo=False, opset_version=13,
            input_names=["input"], output_names=["output"], dynamic_axes=axes,
        )  # fmt: skip


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """With `folder` as the working directory, for tools that look for weights there."""
    with contextlib.chdir(folder):
        yield
