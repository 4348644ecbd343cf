"""OpenVINO on the CPU: the default backend for .onnx engines."""

import threading
from functools import cache
from typing import Any

import numpy as np

from rofo.engines import EngineSettings
from rofo.engines.contract import EngineSource, Shapes, Tensors
from rofo.engines.telemetry import import_quietly
from rofo.errors import EngineLoadError, EngineMismatchError, EngineRunError
from rofo.log import LOG
from rofo.manifest import MIN_BF16_PARITY_DB, below_gate

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_one_core = threading.Lock()


class OpenVinoEngine:
    """One compiled model; concurrent callers each get an inference request from a pool."""

    backend, device = "openvino", "cpu"
    in_flight = 1
    healthy = True

    def __init__(self, source: EngineSource, settings: EngineSettings) -> None:
        core = openvino_core()
        from openvino.frontend import FrontEndManager

        path, shapes = source.path, Shapes.of(source.manifest, source.entry.batch)
        self._path, self.batch, self._outputs = path, source.entry.batch, tuple(shapes.outputs)
        self.precision, rest = self._choose(core, source, settings.precision)
        options: dict[str, Any] = {
            # Without the hint OpenVINO computes in bf16 wherever the processor can, measured or not.
            "INFERENCE_PRECISION_HINT": _HINTS[rest],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if settings.threads is not None:
            options["INFERENCE_NUM_THREADS"] = settings.threads
        # Given anything but ONNX, read_model tries the readers of all other formats, which print messages.
        if not FrontEndManager().load_by_framework("onnx").supported(str(path)):
            raise EngineLoadError(f"{path}: not an ONNX file; export again with rofo-export")
        try:
            model = core.read_model(path)
            shapes.check(path, _shapes(model.inputs), _shapes(model.outputs))
            if rest == "fp32":
                _spell_out_norms(model)
            self._model: Any = core.compile_model(model, "CPU", options)
        except EngineMismatchError:
            raise
        except RuntimeError as error:
            raise EngineLoadError(
                f"{path}: OpenVINO cannot load it ({_last_line(error)}); export again with rofo-export"
            ) from error
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def run(self, inputs: Tensors) -> Tensors:
        """See rofo.engines.contract.Engine."""
        request = self._request()
        try:
            request.infer({n: np.ascontiguousarray(t) for n, t in inputs.items()}, share_inputs=True)
            outputs = {name: request.get_tensor(name).data.copy() for name in self._outputs}
        except RuntimeError as error:
            raise EngineRunError(f"{self._path}: OpenVINO failed: {_last_line(error)}") from error
        with self._lock:
            self._idle.append(request)
        return outputs

    def close(self) -> None:
        """See rofo.engines.contract.Engine."""
        self._idle.clear()
        self._model = None

    def _request(self) -> Any:
        with self._lock:
            if self._model is None:
                raise EngineRunError(f"{self._path}: the engine was closed; open it again")
            return self._idle.pop() if self._idle else self._model.create_infer_request()

    def _say(self, told: str, precision: str) -> None:
        LOG.info("%s: %s", self._path, told, extra={"engine": self._path.name, "precision": precision})

    def _choose(self, core: Any, source: EngineSource, precision: str) -> tuple[str, str]:
        """The precision, and that of what it does not concern. Raises EngineLoadError."""
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if source.entry.precision == "int8":
            if precision not in ("auto", "int8"):
                raise EngineLoadError(
                    f"{self._path}: an int8 engine does not compute in {precision}; give its manifest "
                    f"({self._path.stem.removesuffix('.int8')}.json) as the engine"
                )
            rest = source.entry.rest if has_bf16 else "fp32"
            if rest != source.entry.rest:
                self._say("this processor has no bf16: what is not int8 is computed in fp32", "int8")
            return "int8", rest
        if precision == "auto":
            reason = below_gate(source.manifest.snr_db(self.backend, "bf16"), MIN_BF16_PARITY_DB)
            precision = "bf16" if has_bf16 and not reason else "fp32"
            if has_bf16 and reason:
                self._say(f"bf16 is not taken: {reason}", precision)
        if precision == "int8":
            raise EngineLoadError(
                f"{self._path}: an fp32 engine, not int8, and none is beside it; "
                "run rofo-export --quantize int8"
            )
        if precision not in _HINTS:
            raise EngineLoadError(
                f"{self._path}: OpenVINO on a CPU computes in {' or '.join(_HINTS)}, not {precision}; "
                "use --precision auto"
            )
        if precision == "bf16" and not has_bf16:
            raise EngineLoadError(f"{self._path}: this processor has no bf16; use --precision fp32")
        return precision, precision


def openvino_core() -> Any:
    """OpenVINO's core, which is never freed. Raises ImportError.

    It sets the stack of its opener's signal handlers, and frees that with the last core and model, in
    whatever thread that may be: when a Separator was closed in another thread than the one that had opened
    it, the next signal that Python handles ended the process (2026.4, with AVX-512).
    """
    with _one_core:
        return _core()


@cache
def _core() -> Any:
    openvino = import_quietly("openvino")
    # The first time that OpenVINO (2026.4) needs numpy it lets go of Python's lock within one of its own, for
    # which a second thread waits without letting go: of five processes whose first two runs came at once, two
    # stood still for ever.
    openvino.Type.f32.to_dtype()
    return openvino.Core()


def _shapes(ports: Any) -> dict[str, tuple[int, ...]]:
    return {
        port.get_any_name(): tuple(d.get_length() if d.is_static else -1 for d in port.get_partial_shape())
        for port in ports
    }


def _spell_out_norms(model: Any) -> None:
    """Replace every InstanceNorm by its definition.

    OpenVINO's own operator (2026.4) adds the squares of a channel one after another where channels are
    innermost in memory, as they are around convolutions: over 256 frames of 1024 bins it is 99 dB from
    float64, PyTorch 146, the definition 125 or more. A seeded MDX23C of the public size is 78 dB from
    PyTorch with the one and 103 with the other, for 2 % more processor time; the exporter's gate is 70.
    In bf16 the rounding of what convolutions multiply outweighs all that.
    """
    for node in model.get_ordered_ops():
        if _is_instance_norm(node):
            spelled = _instance_norm(node.input_value(0), node.get_attributes()["eps"]).output(0)
            for user in node.output(0).get_target_inputs():
                user.replace_source_output(spelled)


def _is_instance_norm(node: Any) -> bool:
    """Whether it normalises (batch, channels, frames, bins) over frames and bins."""
    if node.get_type_name() != "MVN" or len(node.get_input_partial_shape(0)) != 4:
        return False
    axes = node.input_value(1).get_node()
    return axes.get_type_name() == "Constant" and sorted(axes.get_data().tolist()) == [2, 3]


def _instance_norm(x: Any, epsilon: float) -> Any:
    """(x - mean) / sqrt(variance + epsilon) of an output (batch, channels, frames, bins)."""
    from openvino import opset13 as ops

    _, _, frames, bins = x.get_shape()

    def mean(values: Any) -> Any:
        # Not reduce_mean: OpenVINO recognises a norm in that, and puts its own operator back.
        return ops.multiply(ops.reduce_sum(values, np.array([2, 3]), True), np.float32(1 / (frames * bins)))

    centred = ops.subtract(x, mean(x))
    variance = mean(ops.multiply(centred, centred))
    return ops.divide(centred, ops.sqrt(ops.add(variance, np.float32(epsilon))))


def _last_line(error: Exception) -> str:
    """The last line of OpenVINO's report: the ones before name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
