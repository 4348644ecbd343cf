"""Graphs of a Roformer: traced from our network, in the form that each kind of engine runs best."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rofo.errors import CheckpointError
from rofo.export.checkpoint import Checkpoint, load_checkpoint
from rofo.export.config import RoformerConfig
from rofo.export.layer_outputs import LayerOutput, layer_outputs
from rofo.export.networks.form import PLAIN, Form
from rofo.export.networks.roformer import Roformer
from rofo.export.onnx_graph import run_network, write_onnx
from rofo.export.plan import PlanOptions, Trace
from rofo.manifest import ChunkSize

Floats = NDArray[np.float32]


class RoformerGraphs:
    """The network of a checkpoint whose state it empties. The fp32 network goes once it has been compared."""

    keeps_silence = True  # a mask times silence

    def __init__(
        self, config: RoformerConfig, loaded: Checkpoint, chunk: ChunkSize, *, unsafe_pickle: bool
    ) -> None:
        self._config, self._chunk = config, chunk
        self._path, self._sha256, self._unsafe_pickle = loaded.path, loaded.sha256, unsafe_pickle
        self._network: Roformer | None = self._built(loaded, PLAIN)

    def write(self, file: Path, batch: int) -> Path | None:
        """The fp32 graph, as in Graphs."""
        assert self._network is not None
        return write_onnx(self._network, (batch, *self._shape), file)

    def stems(self, mix: Floats) -> Floats:
        """Run the network and let go of it: no engine is run or built while it is in memory."""
        assert self._network is not None
        network, self._network = self._network, None
        stems: Floats = run_network(network, torch.from_numpy(mix)).numpy()
        return stems

    def typed(self, options: PlanOptions) -> Trace:
        """The network in the form of `options`, traced for as many batches as are asked for."""
        network = self._built_again(options.form)

        def trace(file: Path, batch: int) -> None:
            write_onnx(network, (batch, *self._shape), file, typed=True)

        return trace

    def layer_outputs(self, options: PlanOptions, mix: Floats) -> dict[str, LayerOutput]:
        """Of the network in the arrangement of `options`, but in float32."""
        return layer_outputs(self._built_again(options.form.exact), mix)

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self._config.channels, self._chunk.frames, self._config.n_fft // 2 + 1, 2)

    def _built(self, loaded: Checkpoint, form: Form) -> Roformer:
        try:
            return Roformer(self._config, loaded.state, self._chunk.frames, form)
        except CheckpointError as error:
            raise CheckpointError(f"{self._path}: {error}") from None

    def _built_again(self, form: Form) -> Roformer:
        """The network in another form: building it the first time has emptied the checkpoint's state."""
        self._network = None
        again = load_checkpoint(self._path, unsafe_pickle=self._unsafe_pickle)
        if again.sha256 != self._sha256:
            raise CheckpointError(f"{self._path}: changed while it was exported; export again")
        return self._built(again, form)
