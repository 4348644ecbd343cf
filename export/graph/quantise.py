"""Engines of 8 bits: some matrix products and convolutions of a graph between operands of a byte each.

What is multiplied so (`products`): matrix products whose weights all rows share, and convolutions without
groups; 86 % of viperx's arithmetic (attention: 12). The small products of the bands, which have a matrix
each, stay as they are: they are a network's first and last, where rounding costs most (the demo model on
half-silent music, int8: its last is 23 dB alone, its layers 41 to 56).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from rofo.engines.contract import Tensors
from rofo.engines.openvino import openvino_core
from rofo.errors import EngineLoadError
from rofo.export.graph.operands import Operands, Product, Range
from rofo.export.graph.trace import INLINE_BYTES

Ranges = Mapping[str, Range]
"""By the names of products."""

# Below this many inputs there is more to convert than to multiply.
_FEWEST_INPUTS = 16


@dataclass(frozen=True)
class Quantiser:
    """Writes the graph in the file `path` with some of its products between `operands`.

    `names` are those that can be. `ranges` may have been measured on the graph for another batch.
    """

    path: Path
    ranges: Ranges
    operands: Operands

    @property
    def names(self) -> tuple[str, ...]:
        """Of the products that can be, in the order of the graph."""
        return tuple(self.ranges)

    def write(self, path: Path, names: Collection[str]) -> Path | None:
        """Write the engine with the products of these names in 8 bits; the file of large weights, if any.

        `path` must lie in an empty folder: saving over external weights appends to them.
        """
        made = onnx.load(self.path)
        nodes, weights = list(made.graph.node), {t.name: t for t in made.graph.initializer}
        chosen = {product.place: product for product in products(made) if product.name in names}
        del made.graph.node[:]
        for place, node in enumerate(nodes):
            if place in chosen:
                product = chosen[place]
                weight = numpy_helper.to_array(weights[product.name]).astype(np.float64)
                written, constants = self.operands(node, product, self.ranges[product.name], weight)
                made.graph.node.extend(written)
                made.graph.initializer.extend(constants)
            else:
                made.graph.node.append(node)
        _drop_unused(made.graph)
        data = path.with_name(f"{path.name}.data") if made.ByteSize() > INLINE_BYTES else None
        onnx.save(made, path, save_as_external_data=data is not None, location=data.name if data else None)
        return data


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Weights that now are of another type, and what converted them."""
    used, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            bodies = (attribute.g for attribute in node.attribute)
            used.update(name for body in bodies for inner in body.node for name in inner.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    constants = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def products(model: onnx.ModelProto) -> tuple[Product, ...]:
    """What can be computed in 8 bits, in the order of the graph; weights may be cast before."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    cast = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    found = []
    for place, node in enumerate(model.graph.node):
        if node.op_type not in ("MatMul", "Conv"):
            continue
        source, weight = node.input[0], cast.get(node.input[1], node.input[1])
        shape = shapes.get(weight)
        if node.op_type == "MatMul" and shape and len(shape) == 2 and shape[0] >= _FEWEST_INPUTS:
            found.append(Product(weight, place, source, over=-1, outputs=1))
        if node.op_type == "Conv" and shape and shape[1] >= _FEWEST_INPUTS and _groups(node) == 1:
            found.append(Product(weight, place, source, over=1, outputs=0))
    return tuple(found)


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def measured_ranges(path: Path, chunks: Sequence[Tensors], batch: int = 1) -> Ranges:
    """What every product of the graph in `path` is given: run on OpenVINO in float32, in full batches.

    Raises EngineLoadError where OpenVINO is missing.
    """
    try:
        core = openvino_core()
    except ImportError:
        raise EngineLoadError(
            f"{path.name}: no OpenVINO to calibrate 8 bits with; pip install 'rofo[cpu]'"
        ) from None
    model = onnx.load(path, load_external_data=False)
    found = products(model)
    _probe(model, found)
    probed = path.with_name(f"{path.stem}.probed.onnx")  # beside its weights
    onnx.save(model, probed)
    try:
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(probed, "CPU", options).create_infer_request()
    finally:
        probed.unlink()
    ranges: dict[str, Range] = {}
    for inputs in _batches(chunks, batch):
        request.infer(dict(inputs))
        for number, product in enumerate(found):
            low, high = (
                request.get_tensor(f"{kind}/{number}").data.astype(np.float64)
                for kind in ("ReduceMin", "ReduceMax")
            )
            one = Range(low, high)
            ranges[product.name] = ranges[product.name].joined(one) if product.name in ranges else one
    return ranges


def _probe(model: onnx.ModelProto, found: Sequence[Product]) -> None:
    """Make the extremes of what every product is given further outputs.

    They come before the graph's own: OpenVINO (2026.4) computes what the first output needs first, and kept
    all that is reduced until the end. Viperx' width at depth 3, chunks of 4 s: 1.3 GB where it was 3.3.
    """
    own = list(model.graph.output)
    del model.graph.output[:]
    shapes = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
    for number, product in enumerate(found):
        rank = len(shapes[product.source].type.tensor_type.shape.dim)
        axes = [axis for axis in range(rank) if axis != product.over % rank]
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes), f"axes/{number}"))
        for kind in ("ReduceMin", "ReduceMax"):
            name = f"{kind}/{number}"
            model.graph.node.append(
                onnx.helper.make_node(kind, [product.source, f"axes/{number}"], [name], keepdims=0)
            )
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    model.graph.output.extend(own)


def _batches(chunks: Sequence[Tensors], batch: int) -> Iterator[Tensors]:
    """Full batches of all chunks, the first ones once more where they do not come out even."""
    for start in range(0, len(chunks), batch):
        group = [chunks[(start + i) % len(chunks)] for i in range(batch)]
        yield {name: np.concatenate([chunk[name] for chunk in group]) for name in group[0]}
