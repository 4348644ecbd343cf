"""Running a typed graph on the CPU, every value of 16 or 8 bits rounded as its type says.

ONNX Runtime's CPU kernels for fp16 are mostly fp32 kernels between casts, of which it drops those that
meet: an fp16 graph then computes more exactly than it says and does not overflow where it would (version
1.31 finds 300 x 300 x 0.001 to be 90). For bf16 it has hardly any. So the graph is rewritten: every value
is float32, and one of a shorter type is rounded to it and back wherever an operator computes it. Sums inside
products and convolutions stay in float32. So they do in the plan's products, but for attention's second one,
see `Headroom`; of a convolution the plan does not say what it sums in: only a GPU can tell.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rofo.engines.contract import Tensors
from rofo.engines.telemetry import import_quietly
from rofo.errors import EngineLoadError

Floats = NDArray[np.float32]

_E4M3 = TensorProto.FLOAT8E4M3FN
_SHORT = {TensorProto.FLOAT16, TensorProto.BFLOAT16, _E4M3}

# These move values and compute none.
_MOVES = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
}  # fmt: skip

# Steps are one number per tensor in typed graphs, and a conversion to E4M3 ends at its largest number.
_SCALED = {"QuantizeLinear": "Div", "DequantizeLinear": "Mul"}

_FATAL_ONLY = 4


@dataclass(frozen=True)
class Headroom:
    """How near fp16 attention comes to overflow.

    Fused fp16 kernels sum probability times value in fp16, un-normalised: no probability is above 1, so the
    sum of |v| over the positions is the most it can become. `worst` is that sum's maximum at node `where`.
    """

    where: str
    worst: float


class RoundedGraph:
    """A typed ONNX file, ready to run. `probes` are names of values that `run` returns as well, thinned."""

    def __init__(self, path: Path, probes: dict[str, int] | None = None) -> None:
        """`probes`: value -> stride. Raises EngineLoadError where ONNX Runtime is missing."""
        try:
            onnxruntime = import_quietly("onnxruntime")
        except ImportError:
            raise EngineLoadError(
                f"{path.name}: no ONNX Runtime to measure the typed graph with; "
                "pip install 'rofo[ort]', or --no-verify"
            ) from None
        typed = onnx.load(path)
        self._outputs = [value.name for value in typed.graph.output]
        rewriter = _Rewriter(typed, probes or {})
        model = rewriter.model()
        self._probes, self._attentions = list(probes or {}), rewriter.attentions
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        # Nothing that could take a rounding for a no-op.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        weights = rewriter.weights
        options.add_external_initializers(list(weights), list(weights.values()))
        self._weights = weights  # the session reads them in place
        self._session: Any = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: Tensors) -> tuple[Tensors, dict[str, Floats], Headroom | None]:
        """The outputs, the probed values, and of the fp16 attentions, if any, the nearest to overflow."""
        names = [*self._outputs, *map(_probe, self._probes), *map(_headroom, self._attentions)]
        found = self._session.run(names, dict(inputs))
        outputs, rest = dict(zip(self._outputs, found, strict=False)), found[len(self._outputs) :]
        probed = dict(zip(self._probes, rest, strict=False))
        sums = map(float, rest[len(self._probes) :])
        room = [Headroom(name, worst) for name, worst in zip(self._attentions, sums, strict=True)]
        # Not a number is the worst of all, and compares as nothing.
        return outputs, probed, max(room, key=lambda h: (not np.isfinite(h.worst), h.worst), default=None)


class _Rewriter:
    """Rewrites one model; large constants end up in `weights`, as ONNX Runtime values outside the model."""

    def __init__(self, typed: onnx.ModelProto, probes: dict[str, int]) -> None:
        self._typed, self._probes = typed, probes
        self._kinds = {t.name: t.data_type for t in typed.graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._extra: list[TensorProto] = []
        self.attentions: list[str] = []
        self.weights: dict[str, Any] = {}

    def model(self) -> onnx.ModelProto:
        graph = self._typed.graph
        kept = [self._constant(tensor) for tensor in graph.initializer]
        for node in graph.node:
            self._rewrite(node)
        outputs = [*graph.output, *map(_scalar_output, map(_headroom, self.attentions))]
        for name, stride in self._probes.items():
            self._thin(name, stride)
            outputs.append(helper.make_tensor_value_info(_probe(name), TensorProto.FLOAT, None))
        made = helper.make_graph(self._nodes, "rounded", list(graph.input), outputs, [*kept, *self._extra])
        return helper.make_model(
            made, opset_imports=list(self._typed.opset_import), ir_version=self._typed.ir_version
        )

    def _constant(self, tensor: TensorProto) -> TensorProto:
        onnxruntime = import_quietly("onnxruntime")
        values = numpy_helper.to_array(tensor)
        if tensor.data_type in _SHORT:
            values = values.astype(np.float32)
        if values.nbytes < 1024:
            return numpy_helper.from_array(values, tensor.name)
        # Beside the model: protobuf ends at 2 GB.
        self.weights[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values))
        outside = TensorProto(name=tensor.name, dims=values.shape, data_location=TensorProto.EXTERNAL)
        outside.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        outside.external_data.add(key="location", value="beside")
        return outside

    def _rewrite(self, node: onnx.NodeProto) -> None:
        if node.op_type == "Scan":
            self._loop(node)
            return
        kind = self._kind(node)
        self._kinds.update(dict.fromkeys(node.output, kind))
        if node.op_type == "Cast":
            if kind in _SHORT:
                self._round(node.input[0], node.output[0], kind)
            elif self._kinds.get(node.input[0]) in _SHORT:
                self._nodes.append(helper.make_node("Identity", node.input, node.output))
            else:
                self._nodes.append(node)
            return
        if node.op_type == "Attention" and kind == TensorProto.FLOAT16 and not _heads_last(node):
            self._watch(node)
        exact = onnx.NodeProto()
        exact.CopyFrom(node)
        if node.op_type in _SCALED:
            exact.op_type = _SCALED[node.op_type]
            del exact.input[2:], exact.attribute[:]
        self._nodes.append(exact)
        if kind not in _SHORT or node.op_type in _MOVES:
            return
        del exact.output[:]
        exact.output.extend(f"{name}/exact" for name in node.output)
        for name in node.output:
            self._round(f"{name}/exact", name, kind)

    def _kind(self, node: onnx.NodeProto) -> int:
        """The type of what a node gives; of a scaled one that of its zero, or without one of its step."""
        if node.op_type in _SCALED:
            return self._kinds[node.input[-1]]
        return _cast_to(node) or self._kinds.get(node.input[0], 0)

    def _loop(self, node: onnx.NodeProto) -> None:
        """A Scan, every step of it rewritten."""
        made, before, self._nodes = onnx.NodeProto(), self._nodes, []
        made.CopyFrom(node)
        (body,) = (attribute.g for attribute in made.attribute if attribute.name == "body")
        types = {value.name: value.type.tensor_type for value in (*body.input, *body.output)}
        self._kinds.update({name: found.elem_type for name, found in types.items()})
        self._kinds.update(
            {name: types[inner.name].elem_type for name, inner in zip(node.output, body.output, strict=True)}
        )
        for inner in body.node:
            self._rewrite(inner)
        for found in types.values():
            found.elem_type = TensorProto.FLOAT
        del body.node[:], body.value_info[:]
        body.node.extend(self._nodes)
        self._nodes = [*before, made]

    def _round(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [f"{target}/rounded"], to=kind))
        self._nodes.append(helper.make_node("Cast", [f"{target}/rounded"], [target], to=TensorProto.FLOAT))

    def _watch(self, node: onnx.NodeProto) -> None:
        """The largest sum over positions of |v|, v: (batch, heads, positions, width)."""
        name = _headroom(node.name)
        self.attentions.append(node.name)
        self._extra.append(numpy_helper.from_array(np.array([2], np.int64), f"{name}/axis"))
        self._nodes.append(helper.make_node("Abs", [node.input[2]], [f"{name}/abs"]))
        self._nodes.append(helper.make_node("ReduceSum", [f"{name}/abs", f"{name}/axis"], [f"{name}/sum"]))
        self._nodes.append(helper.make_node("ReduceMax", [f"{name}/sum"], [name], keepdims=0))

    def _thin(self, name: str, stride: int) -> None:
        numbers = {"all": [-1], "from": [0], "to": [np.iinfo(np.int64).max], "axis": [0], "step": [stride]}
        for key, value in numbers.items():
            self._extra.append(numpy_helper.from_array(np.array(value, np.int64), f"{_probe(name)}/{key}"))
        flat = f"{_probe(name)}/flat"
        self._nodes.append(helper.make_node("Reshape", [name, f"{_probe(name)}/all"], [flat]))
        places = [f"{_probe(name)}/{key}" for key in ("from", "to", "axis", "step")]
        self._nodes.append(helper.make_node("Slice", [flat, *places], [_probe(name)]))


def _heads_last(node: onnx.NodeProto) -> bool:
    """Of 3-D attention, which no plan has: ONNX Runtime's kernels sum it in float32."""
    return any(attribute.name == "q_num_heads" for attribute in node.attribute)


def _cast_to(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "to"), 0) if node.op_type == "Cast" else 0


def _scalar_output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [])


def _probe(name: str) -> str:
    return f"probe/{name}"


def _headroom(name: str) -> str:
    return f"headroom/{name}"
