"""ONNX Runtime: on the CPU for machines without OpenVINO, and on NVIDIA GPUs where it is built for them."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rofo.engines.contract import Shapes
from rofo.errors import EngineLoadError, EngineRunError
from rofo.manifest import EngineFile, Manifest
from rofo.text import one_line

_FATAL_ONLY = 4  # what goes wrong is raised; at 3 it is printed as well


class OnnxRuntimeEngine:
    """One inference session; its `run` is thread-safe by ONNX Runtime's own promise."""

    backend = "onnxruntime"
    precision = "fp32"
    in_flight = 1
    healthy = True
    _provider = "CPUExecutionProvider"
    _provider_options: ClassVar[dict[str, str]] = {}
    _config: ClassVar[dict[str, str]] = {}
    _lacking = "pip install 'rofo[ort]'"
    _unloadable = "export again with rofo-export"

    def __init__(
        self, path: Path, manifest: Manifest, entry: EngineFile, precision: str, threads: int | None
    ) -> None:
        import onnxruntime

        if precision not in ("auto", "fp32"):
            raise EngineLoadError(
                f"{path}: ONNX Runtime computes in fp32, not {precision}; "
                "use --precision fp32, or --backend openvino for bf16"
            )
        if self._provider not in onnxruntime.get_available_providers():
            raise EngineLoadError(f"{path}: this ONNX Runtime has no {self._provider}; {self._lacking}")
        self._path = path
        self.batch = entry.batch
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads or 0
        # Viperx's shape at depth 2: 8.8 GB after two chunks with arena and pattern, 4.8 GB without.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        for key, value in self._config.items():
            options.add_session_config_entry(key, value)
        providers = [(self._provider, self._provider_options)]
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise EngineLoadError(
                f"{path}: ONNX Runtime cannot load it ({one_line(error, 300)}); {self._unloadable}"
            ) from error
        # Asked for a provider it lacks, ONNX Runtime only warns and runs on another.
        if self._session.get_providers()[0] != self._provider:
            raise EngineLoadError(
                f"{path}: ONNX Runtime runs on {self._session.get_providers()[0]}, not {self._provider}; "
                f"{self._lacking}"
            )
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        Shapes.of(manifest, entry.batch).check(path, inputs, outputs)

    def run(self, mix: NDArray[np.float32]) -> NDArray[np.float32]:
        """See rofo.engines.Engine."""
        session = self._session
        if session is None:
            raise EngineRunError(f"{self._path}: the engine was closed; open it again")
        try:
            stems: NDArray[np.float32] = session.run(["stems"], {"mix": mix})[0]
        except Exception as error:
            raise EngineRunError(f"{self._path}: ONNX Runtime failed: {one_line(error, 300)}") from error
        return stems

    def close(self) -> None:
        """See rofo.engines.Engine."""
        self._session = None


class OnnxRuntimeCudaEngine(OnnxRuntimeEngine):
    """The same on a GPU. Whatever CUDA lacks is an error: nothing moves to the processor in silence."""

    backend = "onnxruntime-cuda"
    _provider = "CUDAExecutionProvider"
    _provider_options: ClassVar[dict[str, str]] = {"use_tf32": "0"}  # fp32 is to be fp32
    # Else nodes without a CUDA kernel are computed on the processor, and only the clock tells.
    _config: ClassVar[dict[str, str]] = {"session.disable_cpu_ep_fallback": "1"}
    _unloadable = "see that nvidia-smi lists the GPU, or use --backend openvino or onnxruntime"
    _lacking = "pip uninstall onnxruntime, pip install 'rofo[ort-gpu]', and see that nvidia-smi lists the GPU"
