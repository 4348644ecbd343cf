"""The number types of an engine's graph: the one place where they are written down."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from rofo.errors import UsageError

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Form:
    """What kind of engine a graph is for, and its number types; the default is the fp32 graph of CPU engines.

    `precision` is that of the operands of matrix products and convolutions, `attention` that of q, k and v
    where it differs. Input, output, residual stream and norms are float32 in every form.
    """

    engine: Literal["onnx", "tensorrt"] = "onnx"
    precision: Precision = "fp32"
    attention: Precision | None = None

    @property
    def product(self) -> torch.dtype:
        """The type of the operands of matrix products."""
        return DTYPES[self.precision]

    @property
    def exact(self) -> "Form":
        """The same arrangement in float32 throughout."""
        return replace(self, precision="fp32", attention=None)


def refuse_attention(form: Form) -> None:
    """For networks without fused attention. Raises UsageError where it is asked for in a type of its own."""
    if form.attention is not None:
        raise UsageError("--attention is for networks that have fused attention; leave it out")


def frozen(tensor: Tensor, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    """A weight of an engine."""
    return nn.Parameter(tensor.to(dtype), requires_grad=False)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in `dtype`; leaves no trace in the graph where it is that already."""
    return x if x.dtype == dtype else x.to(dtype)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight in the type of `weight`, summed in float32.

    A product between casts is how a strongly typed TensorRT network asks for 16-bit operands with 32-bit
    sums: it becomes one such kernel. A bare fp16 product may sum in fp16.
    """
    if weight.dtype == torch.float32:
        return cast(x, torch.float32) @ weight
    return (cast(x, weight.dtype).float() @ weight.float()).to(weight.dtype)
