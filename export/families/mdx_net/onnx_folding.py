"""Exact simplifications of an ONNX graph: what is computed stays the same, in fewer operators."""

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants_ir

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# These move numbers and compute none, so that folding them changes no weight.
_MOVES = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze"}

# Elements they may take: Concats that double a weight again and again would fill the memory.
_MAX_MOVED = 8192

_SWAP = (0, 1, 3, 2)


def fold_constants(model: onnx_ir.Model) -> None:
    """Find the shapes of all values from the input's static one, and compute what follows from them alone.

    Constants are folded only where numbers are moved, so that no weight changes. Identity and Dropout are
    bypassed, but nothing is removed. A value that does not fit its operator keeps an unknown shape.
    """
    # Not onnxscript's optimize: its rules fold BatchNormalizations too, in float32.
    fold_constants_ir(model, onnx_shape_inference=True, should_fold=_should_fold)


def drop_unused(model: onnx_ir.Model) -> None:
    """Drop the nodes that nothing uses, among them what folding has bypassed; constants become weights."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    RemoveUnusedNodesPass()(model)


def _should_fold(node: onnx_ir.Node) -> bool:
    """Asked of nodes whose inputs are all constant."""
    if node.op_type == "Transpose":
        return True  # of a linear layer's weight: as large as before
    sizes = (v.const_value.size for v in node.inputs if v is not None and v.const_value is not None)
    return node.op_type in _MOVES and sum(sizes) <= _MAX_MOVED


def fold_batch_norms(model: onnx_ir.Model) -> None:
    """Fold each BatchNormalization right behind a convolution into its weights, rounded to float32 once.

    Others stay: behind a MatMul they act on channels, which its weight is shared by, and before a
    convolution they do not act on its zero padding.
    """
    for node in list(model.graph):
        convolution = node.inputs[0].producer() if node.op_type == "BatchNormalization" else None
        if convolution is not None and _can_fold(convolution, node):
            _fold(model.graph, convolution, node)
    RemoveUnusedNodesPass()(model)  # and weights


def _can_fold(convolution: onnx_ir.Node, norm: onnx_ir.Node) -> bool:
    between = convolution.outputs[0]
    alone = len(between.uses()) == 1 and not between.is_graph_output()
    known = (v is None or v.const_value is not None for v in (*convolution.inputs[1:], *norm.inputs[1:]))
    return convolution.op_type in ("Conv", "ConvTranspose") and alone and all(known)


def _fold(graph: onnx_ir.Graph, convolution: onnx_ir.Node, norm: onnx_ir.Node) -> None:
    weight, bias = _folded(convolution, norm)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        return  # of a negative variance, say: the engine then does what the file does
    old, name = norm.outputs[0], norm.outputs[0].name
    inputs = [
        convolution.inputs[0],
        _initializer(graph, f"{name}/weight", weight),
        _initializer(graph, f"{name}/bias", bias),
    ]
    folded = onnx_ir.node(convolution.op_type, inputs, convolution.attributes, name=convolution.name)
    graph.insert_after(norm, folded)
    new = folded.outputs[0]
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, new.type = name, old.type
    graph.remove([norm, convolution], safe=True)


def _folded(convolution: onnx_ir.Node, norm: onnx_ir.Node) -> tuple[Floats, Floats]:
    """Weight and bias of both in one."""
    scale, shift, mean, variance = (_doubles(value) for value in norm.inputs[1:])
    bias = _doubles(convolution.inputs[2]) if len(convolution.inputs) > 2 else 0.0
    with np.errstate(all="ignore"):
        gain = scale / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
        weight, bias = _scaled(convolution, gain), (bias - mean) * gain + shift
        return weight.astype(np.float32), bias.astype(np.float32)


def _scaled(convolution: onnx_ir.Node, gain: Doubles) -> Doubles:
    """The weight with each output channel times its gain.

    Conv: (out, in / groups, ...); ConvTranspose: (in, out / groups, ...), `in` group after group.
    """
    weight = _doubles(convolution.inputs[1])
    if convolution.op_type == "Conv":
        return weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
    groups = convolution.attributes.get_int("group", 1)
    split = weight.reshape(groups, -1, *weight.shape[1:])
    gains = gain.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    return (split * gains).reshape(weight.shape)


def _doubles(value: onnx_ir.Value | None) -> Doubles:
    assert value is not None and value.const_value is not None
    values: Doubles = value.const_value.numpy().astype(np.float64)
    return values


def _initializer(graph: onnx_ir.Graph, name: str, values: Floats) -> onnx_ir.Value:
    value = onnx_ir.val(name, const_value=onnx_ir.tensor(values, name=name))
    graph.register_initializer(value)
    return value


def swap_input(graph: onnx_ir.Graph) -> bool:
    """Let the graph take its input (a, b, c, d) as (a, b, d, c) if that saves a Transpose and costs none.

    So it does where only operators that treat every place alike stand between input and Transpose.
    """
    value = graph.inputs[0]
    while len(value.uses()) == 1 and not value.is_graph_output():
        node, index = value.uses()[0]
        if _swaps(node):
            return _bypass(graph, node)
        if index != 0 or not _is_pointwise(node):
            break
        value = node.outputs[0]
    return False


def swap_output(graph: onnx_ir.Graph) -> bool:
    """Let the graph give its output (a, b, c, d) as (a, b, d, c), as `swap_input` does for the input."""
    value = graph.outputs[0]
    node = None if value.uses() else value.producer()
    while node is not None:
        if _swaps(node):
            return _bypass(graph, node)
        value = node.inputs[0]
        node = value.producer() if _is_pointwise(node) and len(value.uses()) == 1 else None
    return False


def _bypass(graph: onnx_ir.Graph, transpose: onnx_ir.Node) -> bool:
    transpose.outputs[0].replace_all_uses_with(transpose.inputs[0], replace_graph_outputs=True)
    graph.remove(transpose, safe=True)
    return True


def _swaps(node: onnx_ir.Node) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get_ints("perm", ())) == _SWAP


def _is_pointwise(node: onnx_ir.Node) -> bool:
    """Whether a node does the same at every place of the last two axes of its first input, its only one."""
    if any(value is not None and value.const_value is None for value in node.inputs[1:]):
        return False
    if node.op_type != "Conv":
        return node.op_type in ("Relu", "BatchNormalization")
    ones = tuple(node.inputs[1].shape or ())[2:] == (1, 1)
    strides, pads = (set(node.attributes.get_ints(name, ())) for name in ("strides", "pads"))
    return ones and strides <= {1} and pads <= {0}
