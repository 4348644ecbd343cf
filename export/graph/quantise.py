"""int8 engines: matrix products and convolutions of the fp32 graph between 8-bit operands.

The form is QDQ: QuantizeLinear and DequantizeLinear before every operand, which OpenVINO and ONNX Runtime
turn into kernels that multiply bytes and sum in int32. What is multiplied (`products`): matrix products whose
weights all rows share, and convolutions without groups; 86 % of viperx's arithmetic (attention: 12). The
small products of the bands, which have a matrix each, stay as they are: they are a network's first and last,
where rounding costs most (the demo model on half-silent music: its last is 23 dB alone, its layers 41 to 56).

* Weights: int8, symmetric, one scale per output.
* Activations: uint8 with one scale and one zero, over the range that calibration found; 0 is one of their
  numbers, so that silence stays silent.
* SmoothQuant (Xiao et al. 2023, equation 4): inputs j whose activations are far larger than those of others
  are divided by s_j = max|x_j|^a / max|w_j|^(1 - a), their weights multiplied by it. The division costs
  nothing: it is in QuantizeLinear's scales, one per input, where DequantizeLinear has one for all.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rofo.engines.contract import Tensors
from rofo.export.graph.trace import INLINE_BYTES

Array = NDArray[np.float64]

# SmoothQuant's own figure. The demo model, the products of its bands in int8 too: on its mix 39.5 dB with
# 0.5, 41.9 with 0.7, 40.4 without; on music without a voice, all but silenced, 25.7, 22.3 and 13.2.
_ALPHA = 0.5
_TINY = 1e-12
# Below this many inputs there is more to convert than to multiply.
_FEWEST_INPUTS = 16


@dataclass(frozen=True)
class Product:
    """A node of the graph: `name` is that of its weight, `place` its index, `source` its other operand.

    `over` is the axis of `source` that is summed over; `outputs` that of the weight whose scales differ.
    """

    name: str
    place: int
    source: str
    over: int
    outputs: int


@dataclass(frozen=True)
class Range:
    """The least and the greatest of every input of a product: (inputs,) each."""

    lowest: Array
    highest: Array

    def joined(self, other: "Range") -> "Range":
        """Of both."""
        return Range(np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest))


class Quantiser:
    """An fp32 engine file that is to be written with some of its products in int8.

    `names` are those that can be; `chunks` is what the ranges are measured on, each a full batch.
    """

    def __init__(self, path: Path, chunks: Iterable[Tensors]) -> None:
        self._model = onnx.load(path)
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._products = {product.name: product for product in products(self._model)}
        self._ranges = _ranges(path, tuple(self._products.values()), chunks)
        self.names = tuple(self._products)

    def write(self, path: Path, names: Collection[str]) -> Path | None:
        """Write the engine with the products of these names in int8; the file of large weights, if any.

        `path` must lie in an empty folder: saving over external weights appends to them.
        """
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        chosen = {product.place: product for name, product in self._products.items() if name in names}
        del made.graph.node[:]
        for place, node in enumerate(self._model.graph.node):
            if place in chosen:
                nodes, constants = self._in_int8(node, chosen[place])
                made.graph.node.extend(nodes)
                made.graph.initializer.extend(constants)
            else:
                made.graph.node.append(node)
        used = {name for node in made.graph.node for name in node.input}
        kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
        del made.graph.initializer[:]
        made.graph.initializer.extend(kept)
        data = path.with_name(f"{path.name}.data") if made.ByteSize() > INLINE_BYTES else None
        onnx.save(made, path, save_as_external_data=data is not None, location=data.name if data else None)
        return data

    def _in_int8(
        self, node: onnx.NodeProto, product: Product
    ) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        weight = numpy_helper.to_array(self._weights[product.name]).astype(np.float64)
        inputs = 0 if node.op_type == "MatMul" else 1
        smooth = _smooth(self._ranges[product.name], weight, inputs)
        scale, zero = _scale(self._ranges[product.name], smooth)
        weight = weight * smooth.reshape(_along(inputs, weight.ndim))
        others = tuple(axis for axis in range(weight.ndim) if axis != product.outputs)
        steps = np.maximum(np.abs(weight).max(axis=others, keepdims=True), _TINY) / 127
        values: dict[str, NDArray[np.generic]] = {
            "scales": (scale * smooth).astype(np.float32),
            "zeros": np.full(smooth.shape, zero, np.uint8),
            "scale": np.asarray(scale, np.float32),
            "zero": np.asarray(zero, np.uint8),
            "int8": np.rint(weight / steps).astype(np.int8),
            "steps": steps.ravel().astype(np.float32),
        }
        name = {key: f"{product.name}/{key}" for key in (*values, "quantised", "input", "weight")}
        made = onnx.NodeProto()
        made.CopyFrom(node)
        made.input[0], made.input[1] = name["input"], name["weight"]
        nodes = [
            helper.make_node(
                "QuantizeLinear", [product.source, name["scales"], name["zeros"]], [name["quantised"]],
                axis=product.over,
            ),
            helper.make_node(
                "DequantizeLinear", [name["quantised"], name["scale"], name["zero"]], [name["input"]]
            ),
            helper.make_node(
                "DequantizeLinear", [name["int8"], name["steps"]], [name["weight"]], axis=product.outputs
            ),
            made,
        ]  # fmt: skip
        return nodes, [numpy_helper.from_array(array, name[key]) for key, array in values.items()]


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """What can be computed in int8, in the order of the graph."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for place, node in enumerate(model.graph.node):
        shape = shapes.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "MatMul" and shape and len(shape) == 2 and shape[0] >= _FEWEST_INPUTS:
            found.append(Product(node.input[1], place, node.input[0], over=-1, outputs=1))
        if node.op_type == "Conv" and shape and shape[1] >= _FEWEST_INPUTS and _groups(node) == 1:
            found.append(Product(node.input[1], place, node.input[0], over=1, outputs=0))
    return tuple(found)


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _smooth(found: Range, weight: Array, inputs: int) -> Array:
    """SmoothQuant's divisors, (inputs,); their geometric mean is 1."""
    others = tuple(axis for axis in range(weight.ndim) if axis != inputs)
    largest = np.maximum(np.abs(found.lowest), np.abs(found.highest))
    divisors = np.maximum(largest, _TINY) ** _ALPHA / np.maximum(np.abs(weight).max(others), _TINY) ** (
        1 - _ALPHA
    )
    return np.asarray(divisors / np.exp(np.log(divisors).mean()))


def _scale(found: Range, smooth: Array) -> tuple[float, int]:
    """Step and zero of a byte that reaches from the least to the greatest of smoothed activations."""
    lowest = min(0.0, float((found.lowest / smooth).min()))
    highest = max(0.0, float((found.highest / smooth).max()))
    step = max(highest - lowest, _TINY) / 255
    return step, round(-lowest / step)


def _along(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(-1 if i == axis else 1 for i in range(rank))


def _ranges(path: Path, found: Sequence[Product], chunks: Iterable[Tensors]) -> Mapping[str, Range]:
    """Run the fp32 graph with the extremes of what every product is given as further outputs."""
    import openvino

    model = onnx.load(path, load_external_data=False)
    shapes = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for number, product in enumerate(found):
        rank = len(shapes[product.source].type.tensor_type.shape.dim)
        axes = [axis for axis in range(rank) if axis != product.over % rank]
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes), f"axes/{number}"))
        for kind in ("ReduceMin", "ReduceMax"):
            name = f"{kind}/{number}"
            model.graph.node.append(
                helper.make_node(kind, [product.source, f"axes/{number}"], [name], keepdims=0)
            )
            model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    probed = path.with_name(f"{path.stem}.probed.onnx")  # beside its weights
    onnx.save(model, probed)
    try:
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.Core().compile_model(probed, "CPU", options).create_infer_request()
    finally:
        probed.unlink()
    ranges: dict[str, Range] = {}
    for inputs in chunks:
        request.infer(dict(inputs))
        for number, product in enumerate(found):
            low, high = (
                request.get_tensor(f"{kind}/{number}").data.astype(np.float64)
                for kind in ("ReduceMin", "ReduceMax")
            )
            one = Range(low, high)
            ranges[product.name] = ranges[product.name].joined(one) if product.name in ranges else one
    return ranges
