"""How a network is written down: the arrangement and the number types that one kind of engine runs best."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

# More than all padding together: one group whatever the widths.
_ONE_GROUP = 1 << 40


@dataclass(frozen=True)
class Form:
    """Arrangement and number types of a network's graph; the default is the fp32 graph for CPU engines.

    `product` is the type of both operands of matrix products, which sum in float32 and round their result
    to it; `attention` the type of q, k and v. Everything else is float32: input, output, residual stream,
    norms, rotations, gates, mask times spectrogram. `heads_first` gives attention (batch, heads, positions,
    width) instead of (batch, positions, heads * width); `attention_node` False spells it out as products
    and a softmax. `still_stream` leaves the residual stream where it is, (batch, bands, frames, dim), and
    turns what attention over bands reads and writes, instead of the stream before and after. `split_cost`
    and `mask_cost` are what one more group of bands costs in the band split and in the last mask layer, in
    features of padding: the overhead of one more product on one side, wasted multiplications on the other.
    """

    product: torch.dtype = torch.float32
    attention: torch.dtype = torch.float32
    heads_first: bool = False
    attention_node: bool = True
    still_stream: bool = False
    # 64 puts the 62 standard bands into 6 groups with 0.1 % padding and the 60 Mel bands into 13 with 7 %.
    split_cost: int = 64
    mask_cost: int = 64

    @property
    def exact(self) -> "Form":
        """The same arrangement in float32 throughout."""
        return replace(self, product=torch.float32, attention=torch.float32)


PLAIN = Form()

Precision = Literal["fp32", "fp16", "bf16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def tensorrt_form(precision: Precision, attention: Precision | None = None) -> Form:
    """The form for TensorRT; `attention` is by default of the same precision.

    TensorRT-RTX has fused kernels for 4-D attention in fp16 and bf16, with two kernels less per layer than
    for 3-D; in fp32 it has none and refuses the node. Turning a float32 stream twice per layer is 5 % of
    what the largest public network moves; inside a kernel that reads or writes 16 bits it is free. A group
    of bands is a kernel or two, of some microseconds, in which it multiplies hundreds of features of
    padding.
    """
    inner = DTYPES[attention or precision]
    return Form(
        product=DTYPES[precision],
        attention=inner,
        heads_first=True,
        attention_node=inner != torch.float32,
        still_stream=True,
        split_cost=_ONE_GROUP,
        mask_cost=512,
    )


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
