"""What running an ONNX graph once costs: arithmetic, and memory."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx

# Operators whose result is, or is fused into, a view of their input.
_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Transpose", "Split", "Slice", "Gather"}

_RECURRENT = {"LSTM", "GRU"}


@dataclass(frozen=True)
class Cost:
    """`flop` of products and convolutions; bytes of the `weights`, and of what `live`s at once at most.

    `live` counts no temporaries inside a kernel; a builder that fuses more needs less. `sequences` is the
    largest number of sequences times heads that one attention works on. `steps` are those of all loops
    (recurrent layers), which run one after the other.
    """

    flop: float
    weights: int
    live: int
    sequences: int
    steps: int = 0

    @property
    def memory(self) -> int:
        """Bytes needed on the device, by this estimate."""
        return self.weights + self.live


def graph_cost(path: Path) -> Cost:
    """Cost of the graph in an ONNX file with static shapes."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    shapes = _Shapes(graph)
    return Cost(
        flop=float(sum(shapes.flop(node) for node in graph.node)),
        weights=sum(_bytes(list(t.dims), t.data_type) for t in graph.initializer),
        live=_live(graph, shapes),
        sequences=max((math.prod(shapes.of(n.input[0])[:2]) for n in _attentions(graph)), default=1),
        steps=sum(shapes.steps(node) for node in graph.node),
    )


class _Shapes:
    def __init__(self, graph: onnx.GraphProto) -> None:
        bodies = [_body(node) for node in graph.node if node.op_type == "Scan"]
        values = [v for g in (graph, *bodies) for v in (*g.value_info, *g.input, *g.output)]
        self._types = {v.name: v.type.tensor_type for v in values}
        self._weights = {t.name: t for t in graph.initializer}

    def of(self, name: str) -> list[int]:
        if name in self._weights:
            return list(self._weights[name].dims)
        return [d.dim_value for d in self._types[name].shape.dim]

    def bytes(self, name: str) -> int:
        return _bytes(self.of(name), self._types[name].elem_type) if name in self._types else 0

    def flop(self, node: onnx.NodeProto) -> int:
        if node.op_type == "MatMul":
            return 2 * math.prod(self.of(node.output[0])) * self.of(node.input[0])[-1]
        if node.op_type in ("Conv", "ConvTranspose"):
            # Weights begin with the channels of what is made, or of what is spread: the rest is per value.
            values = node.output[0] if node.op_type == "Conv" else node.input[0]
            return 2 * math.prod(self.of(values)) * math.prod(self.of(node.input[1])[1:])
        if node.op_type == "Attention":
            q, k, v = (self.of(name) for name in node.input[:3])
            # 3-D inputs hold all heads side by side: the same count.
            return 2 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])
        if node.op_type in _RECURRENT:
            weights = sum(math.prod(self.of(name)) for name in node.input[1:3])
            return 2 * math.prod(self.of(node.input[0])[:2]) * weights
        if node.op_type == "Scan":
            return self.steps(node) * sum(self.flop(inner) for inner in _body(node).node)
        return 0

    def steps(self, node: onnx.NodeProto) -> int:
        """How often the body of a loop runs; what it goes along is the first axis of an input."""
        if node.op_type in _RECURRENT:
            return self.of(node.input[0])[0]
        return self.of(node.input[-1])[0] if node.op_type == "Scan" else 0


def _body(loop: onnx.NodeProto) -> onnx.GraphProto:
    return next(attribute.g for attribute in loop.attribute if attribute.name == "body")


def _attentions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "Attention"]


def _live(graph: onnx.GraphProto, shapes: _Shapes) -> int:
    """Largest sum of the tensors that are still needed at any one node."""
    owner: dict[str, str] = {}  # a view keeps the tensor it looks into
    for node in graph.node:
        source = owner.get(node.input[0], node.input[0]) if node.input else ""
        for output in node.output:
            owner[output] = source if node.op_type in _VIEWS else output
    uses = Counter(owner.get(name, name) for node in graph.node for name in node.input)
    uses.update(owner.get(value.name, value.name) for value in graph.output)
    now = sum(shapes.bytes(value.name) for value in graph.input)
    most = now
    for node in graph.node:
        now += sum(shapes.bytes(name) for name in node.output if owner[name] == name and uses[name])
        most = max(most, now)
        for name in node.input:
            held = owner.get(name, name)
            uses[held] -= 1
            if uses[held] == 0:
                now -= shapes.bytes(held)
    return most


def _bytes(dims: list[int], kind: int) -> int:
    return math.prod(dims) * int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)
