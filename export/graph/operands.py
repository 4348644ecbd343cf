"""A product of a graph between 8-bit operands, written as QuantizeLinear and DequantizeLinear before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float64]

# SmoothQuant's own figure. The demo model, the products of its bands in int8 too: on its mix 39.5 dB with
# 0.5, 41.9 with 0.7, 40.4 without; on music without a voice, all but silenced, 25.7, 22.3 and 13.2.
_ALPHA = 0.5
_TINY = 1e-12
_E4M3 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
_E4M3_MAX = 448.0
# The least normal number of fp16, in which a plan holds the steps.
_LEAST_STEP = 2.0**-14


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

    @property
    def inputs(self) -> int:
        """The axis of the weight that is summed over."""
        return 1 - self.outputs


@dataclass(frozen=True)
class Range:
    """The least and the greatest of every input of a product: (inputs,) each."""

    lowest: Array
    highest: Array

    def joined(self, other: "Range") -> "Range":
        """Of both."""
        return Range(np.minimum(self.lowest, other.lowest), np.maximum(self.highest, other.highest))

    @property
    def largest(self) -> Array:
        """Of their magnitudes."""
        return np.maximum(np.abs(self.lowest), np.abs(self.highest))


Written = tuple[list[onnx.NodeProto], list[TensorProto]]
"""The nodes that take the place of one, and their constants."""

Operands = Callable[[onnx.NodeProto, Product, Range, Array], Written]
"""Writes a product whose input has a range, with its weight, between operands of 8 bits."""


_Before = tuple[str, list[str], str, dict[str, int]]
"""A node: operator, inputs, output, attributes."""


def in_int8(node: onnx.NodeProto, product: Product, found: Range, weight: Array) -> Written:
    """For processors: OpenVINO and ONNX Runtime have kernels that multiply bytes and sum in int32.

    * Weights: int8, symmetric, one scale per output.
    * Activations: uint8 with one scale and one zero, over the range that calibration found; 0 is one of their
      numbers, so that silence stays silent.
    * SmoothQuant (Xiao et al. 2023, equation 4): inputs j whose activations are far larger than those of
      others are divided by s_j = max|x_j|^a / max|w_j|^(1 - a), their weights multiplied by it. The division
      costs nothing: it is in QuantizeLinear's scales, one per input, where DequantizeLinear has one for all.
    """
    smooth = _smooth(found, weight, product.inputs)
    scale, zero = _scale(found, smooth)
    weight = weight * smooth.reshape(_along(product.inputs, weight.ndim))
    others = tuple(axis for axis in range(weight.ndim) if axis != product.outputs)
    steps = np.maximum(np.abs(weight).max(axis=others, keepdims=True), _TINY) / 127
    values = {
        "scales": (scale * smooth).astype(np.float32),
        "zeros": np.full(smooth.shape, zero, np.uint8),
        "scale": np.asarray(scale, np.float32),
        "zero": np.asarray(zero, np.uint8),
        "int8": np.rint(weight / steps).astype(np.int8),
        "steps": steps.ravel().astype(np.float32),
    }
    before: list[_Before] = [
        ("QuantizeLinear", [product.source, "scales", "zeros"], "quantised", {"axis": product.over}),
        ("DequantizeLinear", ["quantised", "scale", "zero"], "input", {}),
        ("DequantizeLinear", ["int8", "steps"], "weight", {"axis": product.outputs}),
    ]
    return _written(node, product, values, before)


def in_e4m3(node: onnx.NodeProto, product: Product, found: Range, weight: Array) -> Written:
    """For the plan of a GPU: E4M3, three bits after the point, one scale per operand.

    TensorRT-RTX multiplies numbers of 8 bits where these come from DequantizeLinear in fp16, and sums in
    float32 where casts lie around the product as in `types.product`. With float32 from DequantizeLinear what
    comes out is stored as float32; with anything between the product and its cast to fp16 both operands are
    widened first, and nothing is gained. Scales are powers of two: dividing by them rounds nothing, whatever
    the kernel divides in, and how well a floating-point number fits depends on its exponent alone. The range
    from there to its least normal number is 89 dB, and one bit is left free for louder music.
    """
    values = {
        "step": _power_of_two(2 * float(found.largest.max()) / _E4M3_MAX).astype(np.float32),
        "zero": np.zeros((), _E4M3),
        "weight_step": _power_of_two(float(np.abs(weight).max()) / _E4M3_MAX).astype(np.float16),
    }
    values["step_16"] = values["step"].astype(np.float16)
    values["e4m3"] = (weight / float(values["weight_step"])).astype(_E4M3)
    wide = {"to": int(TensorProto.FLOAT)}
    before: list[_Before] = [
        ("QuantizeLinear", [product.source, "step", "zero"], "quantised", {}),
        ("DequantizeLinear", ["quantised", "step_16"], "input_16", {}),
        ("Cast", ["input_16"], "input", wide),
        ("DequantizeLinear", ["e4m3", "weight_step"], "weight_16", {}),
        ("Cast", ["weight_16"], "weight", wide),
    ]
    return _written(node, product, values, before)


def _written(
    node: onnx.NodeProto,
    product: Product,
    values: dict[str, NDArray[np.generic]],
    before: Sequence[_Before],
) -> Written:
    """Nodes that end in `input` and `weight`, then the product."""

    def full(name: str) -> str:
        return name if name == product.source else f"{product.name}/{name}"

    nodes = []
    for operator, given, output, attributes in before:
        made = helper.make_node(operator, list(map(full, given)), [full(output)], name=full(output))
        made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        nodes.append(made)
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0], made.input[1] = full("input"), full("weight")
    return [*nodes, made], [numpy_helper.from_array(array, full(name)) for name, array in values.items()]


def _smooth(found: Range, weight: Array, inputs: int) -> Array:
    """SmoothQuant's divisors, (inputs,); their geometric mean is 1."""
    others = tuple(axis for axis in range(weight.ndim) if axis != inputs)
    divisors = np.maximum(found.largest, _TINY) ** _ALPHA / np.maximum(np.abs(weight).max(others), _TINY) ** (
        1 - _ALPHA
    )
    return np.asarray(divisors / np.exp(np.log(divisors).mean()))


def _scale(found: Range, smooth: Array) -> tuple[float, int]:
    """Step and zero of a byte that reaches from the least to the greatest of smoothed activations."""
    lowest = min(0.0, float((found.lowest / smooth).min()))
    highest = max(0.0, float((found.highest / smooth).max()))
    step = max(highest - lowest, _TINY) / 255
    return step, round(-lowest / step)


def _power_of_two(least: float) -> Array:
    """The next power of two."""
    return np.asarray(2.0 ** np.ceil(np.log2(max(least, _LEAST_STEP))))


def _along(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(-1 if i == axis else 1 for i in range(rank))
