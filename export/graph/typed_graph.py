"""A convolutional network's float32 graph, rewritten for TensorRT: number types, layout, norms, ranges.

What one kernel leaves to the next is stored in 16 bits, for TensorRT-RTX convolves in 16 bits only what it
also stores so; everything else, products by casts around them, is computed in float32. A TFC-TDF v3 of 128
channels, 5 scales, 256 frames and 4096 bins is then planned as 402 kernels that touch 13.9 GB, an MDX-Net of
48 channels, 5 scales, 256 frames and 3072 bins as 96 with 4.1 GB; their float32 graphs as 452 with 35.1 GB
and 103 with 8.7 GB. Sums of two streams in float32 would be worth 0.2 dB for a quarter more bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rofo.export.graph.types import Precision
from rofo.export.graph.trace import INLINE_BYTES

_FLOAT = TensorProto.FLOAT
_STORED: dict[Precision, tuple[int, Any]] = {
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}

# These move numbers and compute none.
_MOVES = {
    "Concat", "Flatten", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip

# These do the same to every place, or take a constant per channel or per bin.
_PLACEWISE = {"Add", "Elu", "Gelu", "LeakyRelu", "Mul", "Relu", "Sub"}

# fp16 ends at 65504, and a full-scale tone of 4096 times a stream of 30 is beyond it. A 64th has room for
# 4 million, and loses nothing above 0.004. It is a power of two: no rounding changes, nor does bf16.
_SHARE = np.float32(1 / 64)

_TO_LAST, _TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def type_graph(source: Path, target: Path, precision: Precision) -> Path | None:
    """Write the float32 graph `source` in the number types of `precision`; return the file of large weights.

    Input and output stay float32, and with fp32 the whole graph stays as it is. `target` must lie in an
    empty folder. Activations between packing and unpacking are (batch, channels, frames, bins).
    """
    typed = onnx.load(source)
    if precision != "fp32":
        shapes = onnx.shape_inference.infer_shapes(
            onnx.load(source, load_external_data=False)
        ).graph.value_info
        typed = _Rewriter(typed, shapes, precision).model()
    large = sum(len(tensor.raw_data) for tensor in typed.graph.initializer) > INLINE_BYTES
    data = target.with_name(f"{target.name}.data") if large else None
    onnx.save(typed, target, save_as_external_data=large, location=data.name if data else None)
    onnx.checker.check_model(target)
    return data


@dataclass(frozen=True)
class _Value:
    """A tensor of the new graph.

    `kind` is its type; `last`: channels are its last axis, not its second; `shared`: it is _SHARE of what it
    stands for.
    """

    name: str
    kind: int
    last: bool = False
    shared: bool = False


class _Rewriter:
    """Rewrites one graph, node by node."""

    def __init__(
        self, source: onnx.ModelProto, shapes: Iterable[onnx.ValueInfoProto], precision: Precision
    ) -> None:
        self._source = source
        self._shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes}
        self._kind, self._dtype = _STORED[precision]
        self._weights = {tensor.name: tensor for tensor in source.graph.initializer}
        self._uses = Counter(name for node in source.graph.node for name in node.input)
        self._values = {value.name: _Value(value.name, _FLOAT) for value in source.graph.input}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._known: set[str] = set()
        self._module = ""

    def model(self) -> onnx.ModelProto:
        graph = self._source.graph
        for node in graph.node:
            self._module = node.name.rpartition("/")[0] or node.name
            self._rewriter(node)(node)
        for output in graph.output:
            self._emit("Identity", [self._read(output.name, _FLOAT)], output.name)
        made = helper.make_graph(
            self._nodes, graph.name, list(graph.input), list(graph.output), list(self._constants.values())
        )
        opsets = list(self._source.opset_import)
        return helper.make_model(made, opset_imports=opsets, ir_version=self._source.ir_version)

    def _rewriter(self, node: onnx.NodeProto) -> Callable[[onnx.NodeProto], None]:
        constants = sum(name in self._weights for name in node.input)
        if node.op_type in _MOVES:
            return self._move
        if node.op_type in ("Add", "Mul") and not constants:
            return self._add if node.op_type == "Add" else self._multiply
        rewriters = {
            "BatchNormalization": self._batch_norm,
            "Conv": self._convolution,
            "ConvTranspose": self._transposed_convolution,
            "InstanceNormalization": self._instance_norm,
            "MatMul": self._product_over_bins,
            "Relu": self._relu,
        }
        return rewriters.get(node.op_type, self._exact)

    # Convolutions and products

    def _convolution(self, node: onnx.NodeProto) -> None:
        """In 16 bits, which says nothing of its sums: the plan has no place for that.

        With casts around it, as for products, the plan is the same; but where a float32 operator has the same
        input, it can become a convolution in float32.
        """
        shared = self._values[node.input[0]].shared
        x = self._read(node.input[0], self._kind, shared=shared)
        full = self._weight(node.input[1], lambda values: values / _SHARE, "full") if shared else None
        weight = full or self._weight(node.input[1])
        self._copy(node, [x, weight, *map(self._weight, node.input[2:])], self._kind)

    def _transposed_convolution(self, node: onnx.NodeProto) -> None:
        """As a product over the channels whose columns are then laid out as tiles.

        In bf16 TensorRT-RTX 1.7 has no transposed convolution, and in fp16 it does not say how it sums. Tiles
        are laid in the kernel that multiplies by the skipped stream or joins it: one more per scale.
        """
        out, (_, channels, *tile) = node.output[0], self._weights[node.input[1]].dims
        columns = self._weight(
            node.input[1], lambda values: values.transpose(_TO_LAST).reshape(len(values), -1)
        )
        product = self._product(out, self._read(node.input[0], self._kind, last=True), columns)
        tiles = self._emit("Reshape", [product, self._numbers([0, 0, 0, *tile, channels])], f"{out}/tiles")
        turned = self._emit("Transpose", [tiles], f"{out}/turned", perm=(0, 1, 3, 2, 4, 5))
        size = self._numbers([0, *self._shapes[out][2:], channels])
        laid = self._emit("Reshape", [turned, size], f"{out}/laid")
        if len(node.input) == 2:
            self._keep(out, _Value(laid, self._kind, last=True))
            return
        bias = self._per_channel(node.input[2], self._array(node.input[2]), last=True)
        self._keep(out, _Value(self._emit("Add", [self._wide(laid), bias], f"{out}/sum"), _FLOAT, last=True))

    def _product_over_bins(self, node: onnx.NodeProto) -> None:
        """x @ weight as weight.T @ x with the channels last, as they are in memory between convolutions.

        The other way round a kernel of its own turns x for every product.
        """
        out, weight = node.output[0], self._weight(node.input[1], np.transpose)
        product = self._product(out, weight, self._read(node.input[0], self._kind, last=True))
        self._keep(out, _Value(product, self._kind, last=True))

    def _product(self, out: str, left: str, right: str) -> str:
        """A 16-bit product that sums in float32."""
        product = self._emit("MatMul", [self._wide(left), self._wide(right)], f"{out}/product")
        return self._emit("Cast", [product], f"{out}/stored", to=self._kind)

    # Norms

    def _instance_norm(self, node: onnx.NodeProto) -> None:
        """(x - mean) * gain + bias: mean, variance and result each read x once, in 16 bits.

        Behind a reshape of its own each has a cast of its own; of a common one the plan stores the result, in
        float32. Bytes per value: 8 so, 13 to 17 with a common cast, 10 as the operator on 16 bits.
        """
        out, value = node.output[0], self._values[node.input[0]]
        last, channels = value.last, self._weights[node.input[1]].dims[0]
        x, places = self._read(node.input[0], self._kind, last=last), [1, 2] if last else [2, 3]
        line, plane = (
            ([0, -1, channels], [0, -1, 1, channels]) if last else ([0, channels, -1], [0, channels, -1, 1])
        )
        flat = self._emit("Reshape", [x, self._numbers(line)], f"{out}/line")
        mean = self._emit("ReduceMean", [self._wide(flat), self._numbers(places[:1])], f"{out}/line_mean")
        mean = self._emit("Unsqueeze", [mean, self._numbers(places[:1])], f"{out}/mean")
        flat = self._emit("Reshape", [x, self._numbers(plane)], f"{out}/plane")
        deviation = self._emit("Sub", [self._wide(flat), mean], f"{out}/deviation")
        square = self._emit("Mul", [deviation, deviation], f"{out}/square")
        variance = self._emit("ReduceMean", [square, self._numbers(places)], f"{out}/variance")
        epsilon = self._constant(f"{out}/epsilon", np.float32(_epsilon(node)))
        safe = self._emit("Add", [variance, epsilon], f"{out}/safe")
        gamma, beta = (self._per_channel(name, self._array(name), last=last) for name in node.input[1:])
        gain = self._emit("Div", [gamma, self._emit("Sqrt", [safe], f"{out}/root")], f"{out}/gain")
        centred = self._emit("Sub", [self._wide(x), mean], f"{out}/centred")
        scaled = self._emit("Mul", [centred, gain], f"{out}/scaled")
        self._keep(out, _Value(self._emit("Add", [scaled, beta], f"{out}/normed"), _FLOAT, last))

    def _batch_norm(self, node: onnx.NodeProto) -> None:
        """One that no convolution has absorbed: x * gain + shift."""
        out, last = node.output[0], self._values[node.input[0]].last
        gamma, beta, mean, variance = (self._array(name).astype(np.float64) for name in node.input[1:])
        gain = gamma / np.sqrt(variance + _epsilon(node))
        gains = self._per_channel(f"{out}/gain", gain, last=last)
        shifts = self._per_channel(f"{out}/shift", beta - mean * gain, last=last)
        scaled = self._emit("Mul", [self._read(node.input[0], _FLOAT, last=last), gains], f"{out}/scaled")
        self._keep(out, _Value(self._emit("Add", [scaled, shifts], f"{out}/normed"), _FLOAT, last))

    # Everything else

    def _add(self, node: onnx.NodeProto) -> None:
        kind = self._common_kind(node)
        self._copy(node, [self._read(name, kind) for name in node.input], kind)

    def _multiply(self, node: onnx.NodeProto) -> None:
        """A stream times a skipped one. Both grow with the loudness, so that a share of it is stored."""
        out, kind = node.output[0], self._common_kind(node)
        one, other = (self._read(name, kind) for name in node.input)
        factor = self._constant(f"share/{kind}", _SHARE if kind == _FLOAT else _SHARE.astype(self._dtype))
        share = self._emit("Mul", [one, factor], f"{out}/share")
        product = self._emit("Mul", [share, other], f"{out}/product")
        self._values[out] = _Value(self._in(product, kind, self._kind), self._kind, shared=True)

    def _common_kind(self, node: onnx.NodeProto) -> int:
        """16 bits where all operands have them: only then it fits into the kernel of a convolution."""
        wide = any(self._values[name].kind == _FLOAT for name in node.input)
        return _FLOAT if wide else self._kind

    def _relu(self, node: onnx.NodeProto) -> None:
        """Rounds nothing; in 16 bits it fits into the kernel of a convolution."""
        value = self._values[node.input[0]]
        self._copy(
            node, [self._read(node.input[0], value.kind, last=value.last)], value.kind, last=value.last
        )

    def _move(self, node: onnx.NodeProto) -> None:
        moved = [self._values[name] for name in node.input if name in self._values]
        kind = self._kind if any(value.kind != _FLOAT for value in moved) else _FLOAT
        shared = any(value.shared for value in moved)
        inputs = [
            self._read(name, kind, shared=shared) if name in self._values else self._operand(name, kind)
            for name in node.input
        ]
        self._copy(node, inputs, kind, shared=shared)

    def _exact(self, node: onnx.NodeProto) -> None:
        """In float32, and in the layout of its input where it can be."""
        streams = [self._values[name] for name in node.input if name in self._values]
        last = streams[0].last and node.op_type in _PLACEWISE
        inputs = [
            self._read(name, _FLOAT, last=last) if name in self._values else self._parameter(name, last=last)
            for name in node.input
        ]
        self._copy(node, inputs, _FLOAT, last=last)

    # Values

    def _read(self, name: str, kind: int, *, last: bool = False, shared: bool = False) -> str:
        """The value `name` in a type and layout, as its share or in full.

        All readers have one cast to 16 bits and one transpose between them, but casts to float32 of their
        own: a common one would be stored.
        """
        value = self._values[name]
        found, now = value.name, value.kind
        if value.shared != shared:
            factor = _SHARE if shared else 1 / _SHARE
            operands = [self._in(found, now, _FLOAT), self._constant(f"times/{factor}", factor)]
            found, now = self._emit("Mul", operands, f"{found}/times_{len(self._nodes)}"), _FLOAT
        found = self._in(found, now, kind)
        if value.last != last:
            found = self._once("Transpose", found, perm=_TO_LAST if last else _TO_FIRST)
        return found

    def _in(self, name: str, now: int, kind: int) -> str:
        if now == kind:
            return name
        return self._wide(name) if kind == _FLOAT else self._once("Cast", name, to=kind)

    def _once(self, operator: str, name: str, **attributes: Any) -> str:
        made = f"{name}/{operator}"
        if made not in self._known:
            self._known.add(self._emit(operator, [name], made, **attributes))
        return made

    def _wide(self, name: str) -> str:
        return self._emit("Cast", [name], f"{name}/wide_{len(self._nodes)}", to=_FLOAT)

    def _keep(self, name: str, value: _Value) -> None:
        """A new value. What several kernels will read is rounded now: it would be stored in float32."""
        self._values[name] = value
        if value.kind == _FLOAT and self._uses[name] > 1:
            stored = self._read(name, self._kind, last=value.last)
            self._values[name] = replace(value, name=stored, kind=self._kind)

    def _copy(
        self, node: onnx.NodeProto, inputs: list[str], kind: int, *, last: bool = False, shared: bool = False
    ) -> None:
        """The node itself with other inputs; its outputs have the type and layout told."""
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.name = f"{self._module}/{node.op_type}_{len(self._nodes)}"
        del made.input[:], made.output[:]
        made.input.extend(inputs)
        made.output.extend(f"{name}/new" for name in node.output)
        self._nodes.append(made)
        for name in node.output:
            self._keep(name, _Value(f"{name}/new", kind, last, shared))

    def _emit(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{self._module}/{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output

    # Constants

    def _weight(
        self, name: str, change: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray, use: str = "stored"
    ) -> str:
        """A weight in 16 bits, changed before, in a way that every such `use` has in common."""
        return self._constant(f"{name}/{use}", change(self._array(name)).astype(self._dtype))

    def _parameter(self, name: str, *, last: bool) -> str:
        """A constant of a float32 operator, in the layout of what it meets."""
        values = self._array(name)
        if not last:
            return self._constant(name, values)
        shape = (1,) * (4 - values.ndim) + values.shape
        return self._constant(f"{name}/last", values.reshape(shape).transpose(_TO_LAST))

    def _per_channel(self, name: str, values: NDArray[Any], *, last: bool) -> str:
        shape = (1, 1, 1, -1) if last else (1, -1, 1, 1)
        return self._constant(f"{name}/{shape}", values.astype(np.float32).reshape(shape))

    def _operand(self, name: str, kind: int) -> str:
        """What tells a move where to; or, of its type, what it pads or joins with."""
        if not name or self._weights[name].data_type != _FLOAT or kind == _FLOAT:
            return name and self._constant(name, self._array(name))
        return self._weight(name)

    def _numbers(self, numbers: list[int]) -> str:
        return self._constant(f"numbers/{numbers}", np.array(numbers, np.int64))

    def _array(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._weights[name])

    def _constant(self, name: str, values: NDArray[Any] | np.float32) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(
                np.ascontiguousarray(values).reshape(np.shape(values)), name
            )
        return name


def _epsilon(node: onnx.NodeProto) -> float:
    return next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
