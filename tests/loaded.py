"""A file's network, found and loaded as the exporter does it, and its engines in every form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mdx_oracle import ConvOracle, TfcOracle
from torch import nn

from rofo.export.facts import Facts
from rofo.export.families import Description, describe, find_family, load_network
from rofo.export.families.family import Family
from rofo.export.graph.trace import Tensors, run_network, write_onnx
from rofo.export.graph.types import Form, Precision
from rofo.export.source import Source, read_source


@dataclass(frozen=True)
class Loaded:
    """A plain network with its facts."""

    source: Source
    family: Family
    facts: Facts
    network: nn.Module

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one chunk of its input."""
        frames = self.facts["chunk"] // self.facts["hop_length"] + 1
        return (self.facts["channels"], frames, self.facts["n_fft"] // 2 + 1, 2)

    def run(self, mix: np.ndarray) -> np.ndarray:
        """The plain network."""
        return run_network(self.network, {"mix": mix})["stems"]

    def write(self, folder: Path, precision: Precision = "fp32", batch: int = 1) -> Path:
        """The graph of an engine for the CPU, or in 16 bits for TensorRT, in a folder of its own."""
        form = Form("onnx" if precision == "fp32" else "tensorrt", precision)
        path = folder / f"{precision}-{batch}" / "engine.onnx"
        path.parent.mkdir(parents=True)
        engine = self.family.engine(self.network, self.facts, form)
        write_onnx(
            engine, Tensors({"mix": (batch, *self.shape)}, ("stems",)), path, typed=precision != "fp32"
        )
        return path


def described(path: Path, yaml: Path | None = None, **given: Any) -> Description:
    """All that is known of a file."""
    source = read_source(path)
    return describe(find_family(source), source, yaml, given)


def load(path: Path, yaml: Path | None = None, **given: Any) -> Loaded:
    """The network in a file."""
    source = read_source(path)
    family = find_family(source)
    facts = describe(family, source, yaml, given).require()
    return Loaded(source, family, facts, load_network(family, source, facts))


def mdx_net(folder: Path, **options: Any) -> Loaded:
    """An MDX-Net; `options` replace those of ConvOracle."""
    return load(ConvOracle(options).write(folder))


def tfc_tdf(folder: Path, *, dim_f: int = 256, dim_t: int = 16, n_fft: int = 640, **options: Any) -> Loaded:
    """A TFC-TDF v3 with two stems, one block a scale; `options` replace those of TfcOracle."""
    options = {"num_blocks_per_scale": 1, **options}
    return load(*TfcOracle(options, dim_f=dim_f, dim_t=dim_t, n_fft=n_fft).write(folder))


def spectrum(shape: tuple[int, ...], peak: float, batch: int = 1) -> np.ndarray:
    """Magnitudes as different as in music, up to `peak`."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((batch, *shape)) * np.exp(2 * rng.standard_normal((batch, *shape[:-1], 1)))
    return (mix * (peak / np.abs(mix).max())).astype(np.float32)
