"""Graphs of the convolutional families: from our network of a checkpoint, or from a given .onnx file."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rofo.errors import CheckpointError, UsageError
from rofo.export.checkpoint import Checkpoint
from rofo.export.layer_outputs import LayerOutput
from rofo.export.mdx_config import ConvTdfConfig, MdxOnnxConfig, TfcTdfConfig
from rofo.export.mdx_onnx import MdxGraph, run_original, write_contract
from rofo.export.networks.conv_tdf import ConvTdf
from rofo.export.networks.tfc_tdf import TfcTdf
from rofo.export.onnx_graph import run_network, write_onnx
from rofo.export.plan import PlanOptions, Trace
from rofo.export.typed_graph import type_graph
from rofo.manifest import ChunkSize

Floats = NDArray[np.float32]


class _ConvGraphs:
    """What both have in common: plans are built from the fp32 graph, typed afterwards."""

    def write(self, file: Path, batch: int) -> Path | None:
        raise NotImplementedError

    def typed(self, options: PlanOptions) -> Trace:
        """The fp32 graph with the number types of `options` written into it."""
        if options.attention is not None:
            raise UsageError("--attention is for Roformers: this network has none; leave it out")

        def trace(file: Path, batch: int) -> None:
            with tempfile.TemporaryDirectory(dir=file.parent.parent) as folder:
                plain = Path(folder) / "plain.onnx"
                self.write(plain, batch)
                type_graph(plain, file, options.precision)

        return trace

    def layer_outputs(self, options: PlanOptions, mix: Floats) -> dict[str, LayerOutput]:
        """Not measured for these families."""
        raise UsageError("--diagnose is for Roformers; leave it out")


class NetworkGraphs(_ConvGraphs):
    """A ConvTDFNet or TFC-TDF v3 of a checkpoint whose state it empties."""

    def __init__(self, config: ConvTdfConfig | TfcTdfConfig, loaded: Checkpoint, chunk: ChunkSize) -> None:
        self._shape = (config.channels, chunk.frames, config.n_fft // 2 + 1, 2)
        # InstanceNorm leaves silence silent, biases do not.
        self.keeps_silence = isinstance(config, TfcTdfConfig)
        try:
            self._network = (
                TfcTdf(config, loaded.state, chunk.frames)
                if isinstance(config, TfcTdfConfig)
                else ConvTdf(config, loaded.state, chunk.frames)
            )
        except CheckpointError as error:
            raise CheckpointError(f"{loaded.path}: {error}") from None

    def write(self, file: Path, batch: int) -> Path | None:
        """The fp32 graph, as in Graphs."""
        return write_onnx(self._network, (batch, *self._shape), file)

    def stems(self, mix: Floats) -> Floats:
        """Run the network. It stays in memory: the largest of these is 450 MB."""
        stems: Floats = run_network(self._network, torch.from_numpy(mix)).numpy()
        return stems


class OnnxGraphs(_ConvGraphs):
    """A given MDX-Net file, its graph changed by surgery; the file itself is what it is compared with."""

    keeps_silence = False  # its biases sound

    def __init__(self, config: MdxOnnxConfig, given: MdxGraph, chunk: ChunkSize) -> None:
        self._config, self._given, self._chunk = config, given, chunk

    def write(self, file: Path, batch: int) -> Path | None:
        """The fp32 graph, as in Graphs."""
        config = self._config
        return write_contract(
            self._given,
            file,
            batch=batch,
            frames=self._chunk.frames,
            n_fft=config.n_fft,
            zero_bins=config.zero_bins,
            compensate=config.compensate,
        )

    def stems(self, mix: Floats) -> Floats:
        """What the file as it was given makes of mix."""
        config = self._config
        return run_original(self._given, mix, zero_bins=config.zero_bins, compensate=config.compensate)
