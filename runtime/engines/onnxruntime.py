"""ONNX Runtime: on the CPU for machines without OpenVINO, and on NVIDIA GPUs where it is built for them."""

import sys
from contextlib import redirect_stdout
from typing import Any, ClassVar

from rofo.engines import EngineSettings
from rofo.engines.contract import EngineSource, Shapes, Tensors
from rofo.engines.telemetry import import_quietly
from rofo.errors import EngineLoadError, EngineRunError
from rofo.text import one_line

_FATAL_ONLY = 4  # what goes wrong is raised; at 3 it is printed as well


class CpuEngine:
    """One inference session; its `run` is thread-safe by ONNX Runtime's own promise."""

    backend, device = "onnxruntime", "cpu"
    in_flight = 1
    healthy = True
    _provider = "CPUExecutionProvider"
    _provider_options: ClassVar[dict[str, str]] = {}
    _config: ClassVar[dict[str, str]] = {}
    _lacking = "pip install 'rofo[ort]'"
    _unloadable = "export again with rofo-export"

    def __init__(self, source: EngineSource, settings: EngineSettings) -> None:
        onnxruntime = import_quietly("onnxruntime")
        self._path, self.batch = source.path, source.entry.batch
        path, shapes = source.path, Shapes.of(source.manifest, source.entry.batch)
        self.precision: str = source.entry.precision
        if settings.precision not in ("auto", self.precision):
            raise EngineLoadError(
                f"{path}: ONNX Runtime computes this file in {self.precision}, not {settings.precision}; "
                f"use --precision {self.precision}, or --backend openvino for bf16"
            )
        if self._provider not in onnxruntime.get_available_providers():
            raise EngineLoadError(f"{path}: this ONNX Runtime has no {self._provider}; {self._lacking}")
        self._preload(onnxruntime)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = settings.threads or 0
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
        shapes.check(path, inputs, outputs)
        self._outputs = list(outputs)

    def run(self, inputs: Tensors) -> Tensors:
        """See rofo.engines.contract.Engine."""
        session = self._session
        if session is None:
            raise EngineRunError(f"{self._path}: the engine was closed; open it again")
        try:
            return dict(zip(self._outputs, session.run(self._outputs, inputs), strict=True))
        except Exception as error:
            raise EngineRunError(f"{self._path}: ONNX Runtime failed: {one_line(error, 300)}") from error

    def close(self) -> None:
        """See rofo.engines.contract.Engine."""
        self._session = None

    def _preload(self, onnxruntime: Any) -> None:
        """Load what the provider needs before a session asks for it."""


class CudaEngine(CpuEngine):
    """The same on a GPU. Whatever CUDA lacks is an error: nothing moves to the processor in silence."""

    backend, device = "onnxruntime-cuda", "cuda"
    _provider = "CUDAExecutionProvider"
    _provider_options: ClassVar[dict[str, str]] = {"use_tf32": "0"}  # fp32 is to be fp32
    # Else nodes without a CUDA kernel are computed on the processor, and only the clock tells.
    _config: ClassVar[dict[str, str]] = {"session.disable_cpu_ep_fallback": "1"}
    _unloadable = "see that nvidia-smi lists the GPU, or use --backend openvino or onnxruntime"
    _lacking = "pip uninstall onnxruntime, pip install 'rofo[ort-gpu]', and see that nvidia-smi lists the GPU"

    def _preload(self, onnxruntime: Any) -> None:
        # Finds the CUDA that pip installed. What it lacks it prints, where only results belong; the session
        # then fails over the same.
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
