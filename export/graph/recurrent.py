"""Recurrent layers in an engine's form, with the norm before them and the product after."""

import torch
from torch import Tensor, nn

from rofo.export.graph.types import Form, cast, frozen, product


def staged_norm(x: Tensor, *axes: int, eps: float) -> Tensor:
    """x without its mean over `axes` and divided by its deviation, both taken axis by axis.

    One sum over ten million float32 numbers costs ONNX Runtime 50 dB; a sum of sums does not.
    """
    x = x - staged_mean(x, *axes)
    return x * torch.rsqrt(staged_mean(x * x, *axes) + eps)


def staged_mean(x: Tensor, *axes: int) -> Tensor:
    """The mean over `axes`, one after the other, which stay as axes of 1."""
    for axis in axes:
        x = x.mean(dim=axis, keepdim=True)
    return x


class Linear(nn.Module):
    """x -> x @ weight.T + bias, on the last axis; operands of the product in the form's type."""

    def __init__(self, weight: Tensor, bias: Tensor, form: Form) -> None:
        super().__init__()
        self.weight = frozen(weight.T.contiguous(), form.product)
        self.bias = frozen(bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs) -> (..., outputs), float32."""
        return cast(product(x, self.weight), torch.float32) + self.bias


class Recurrent(nn.Module):
    """A bidirectional LSTM or GRU layer and the product after it, along the first axis.

    `scale` and `shift` of the norm before it are folded into its weights.
    """

    def __init__(self, layer: nn.RNNBase, norm: nn.GroupNorm, project: nn.Linear, form: Form) -> None:
        super().__init__()
        kind = nn.LSTM if isinstance(layer, nn.LSTM) else nn.GRU
        self.dtype = form.product
        self.layer: nn.RNNBase = kind(layer.input_size, layer.hidden_size, bidirectional=True)
        weights: dict[str, Tensor] = dict(layer.named_parameters())
        for end in ("l0", "l0_reverse"):
            weight, bias = weights[f"weight_ih_{end}"], weights[f"bias_ih_{end}"]
            weights[f"weight_ih_{end}"], weights[f"bias_ih_{end}"] = folded(
                weight, bias, norm.weight, norm.bias
            )
        self.layer.load_state_dict(weights)
        self.layer.requires_grad_(False).to(self.dtype)
        self.project = Linear(project.weight, project.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """x: (steps, sequences, features), normed -> the same shape, float32."""
        found, _ = self.layer(cast(x, self.dtype))
        return self.project(found)


def folded(weight: Tensor, bias: Tensor, scale: Tensor | None, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) and bias of a product whose input is scaled and shifted no more before it."""
    if scale is None or shift is None:
        return weight, bias
    exact = weight.double()
    return (exact * scale.double()).float(), (bias.double() + exact @ shift.double()).float()
