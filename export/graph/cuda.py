"""A typed graph for ONNX Runtime on CUDA, which has a kernel for every node of it.

Products are bare fp16 ones, for ONNX Runtime does not melt casts into them; cuBLAS sums them in float32, and
so does its flash attention, which takes ONNX's Attention in fp16 where heads lie side by side (Ampere and
later). Norms and the residual stream are float32, as in a plan.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from rofo.export.errors import CheckpointError
from rofo.export.graph.trace import INLINE_BYTES

BACKEND = "onnxruntime-cuda"

# Of the operators that networks here are made of: those with CUDA kernels for float32 and fp16 in opset 23,
# as registered in ONNX Runtime's docs/OperatorKernels.md of 2026. Attention has them since 1.25.
KERNELS = {
    "Add", "Attention", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "Div", "Einsum", "Elu", "Erf",
    "Exp", "Expand", "Flatten", "GRU", "Gather", "Gelu", "Gemm", "GlobalAveragePool", "Identity",
    "InstanceNormalization", "LSTM", "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max", "Min",
    "Mul", "Neg", "PRelu", "Pad", "Pow", "RMSNormalization", "Reciprocal", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Sigmoid", "Sign", "Sin", "Slice",
    "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}


@dataclass(frozen=True)
class CudaGraph:
    """What the gate is told of it, see rofo.export.graph.gates.check_typed."""

    backend: str = BACKEND
    precision: str = "fp16"
    types: str = "fp16 for ONNX Runtime on CUDA"
    cure: str = f"leave --target {BACKEND} out"


def for_cuda(path: Path) -> Path | None:
    """Rewrite the typed graph in `path`, alone in its folder; its file of large weights, if any.

    Raises CheckpointError for a node that CUDA has no kernel for: on the processor it would stand in the way
    of all others, and the engine does not open.
    """
    model = onnx.load(path)
    _bare_products(model.graph)
    _fold(model)
    _check(model, path.name)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    data = path.with_name(f"{path.name}.data") if model.ByteSize() > INLINE_BYTES else None
    onnx.save(model, path, save_as_external_data=data is not None, location=data.name if data else None)
    return data


def _bare_products(graph: onnx.GraphProto) -> None:
    """Cast, product, cast: into one product of 16 bits."""
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    halves |= {node.output[0] for node in graph.node if _casts_to(node, TensorProto.FLOAT16)}
    dropped = []
    for cast in graph.node:
        product = makers.get(cast.input[0]) if _casts_to(cast, TensorProto.FLOAT16) else None
        if product is None or product.op_type != "MatMul" or readers[product.output[0]] > 1:
            continue
        wide = [makers.get(name) for name in product.input]
        if all(node is not None and _casts_to(node, TensorProto.FLOAT) for node in wide):
            product.input[:] = [node.input[0] for node in wide if node is not None]
            product.output[0] = cast.output[0]
            dropped.append(cast)
    for cast in dropped:
        graph.node.remove(cast)


def _fold(model: onnx.ModelProto) -> None:
    """Compute what depends on constants alone, and drop what nobody reads."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if all(name in constants for name in node.input):
            given = {name: numpy_helper.to_array(constants[name]) for name in node.input}
            for name, array in zip(node.output, ReferenceEvaluator(node).run(None, given), strict=True):
                constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        else:
            kept.append(node)
    used, needed = {value.name for value in graph.output}, []
    for node in reversed(kept):
        if used.intersection(node.output):
            used.update(node.input)
            needed.append(node)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(needed))
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)


def _check(model: onnx.ModelProto, name: str) -> None:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)
    }
    for node in model.graph.node:
        computes = {kinds.get(output) for output in node.output if output}
        if node.op_type not in KERNELS or node.domain or not computes <= _FLOATS:
            raise CheckpointError(
                f"{name}: ONNX Runtime has no CUDA kernel for {node.op_type} in this network ({node.name}); "
                f"leave --target {BACKEND} out"
            )


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and any(a.name == "to" and a.i == kind for a in node.attribute)
