"""The layers of a Roformer in the form that engines run fastest, each derived from the plain one."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.roformer import network as plain
from rofo.export.families.transformers import NORM_EPSILON, EngineRMSNorm, RMSNorm
from rofo.export.graph.attention import attend, attend_heads
from rofo.export.graph.types import DTYPES, Form, cast, frozen, product


def norm_of(norm: nn.Module) -> nn.Module:
    """The norm where there is one."""
    return EngineRMSNorm(norm) if isinstance(norm, RMSNorm) else nn.Identity()


class Linear(nn.Module):
    """x @ weight + bias, with `weight` stored (inputs, outputs): the graph then needs no transpose."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = frozen(weight.T.contiguous(), dtype)
        self.bias = None if bias is None else frozen(bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs), any float type -> (..., outputs) in the type of the weights."""
        x = product(x, self.weight)
        return x if self.bias is None else x + self.bias


class Rotated(nn.Module):
    """Rotates q and k whose features are split in halves: (first, second) of each pair, not interleaved.

    Public weights interleave the pairs; `_half_split_rows` reorders the rows of their projections, which
    leaves q.k unchanged and lets the rotation run on contiguous halves. `cos` and `sin` are (positions,
    dim_head / 2); with `heads_first`, heads come before positions.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, cos: Tensor, sin: Tensor, *, heads_first: bool) -> None:
        super().__init__()
        axis = 0 if heads_first else 1
        self.register_buffer("cos", cos.unsqueeze(axis))
        self.register_buffer("sin", sin.unsqueeze(axis))

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, positions, heads, dim_head), or heads first -> the same shapes."""
        return self._rotate(q), self._rotate(k)

    def _rotate(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)


class Polar(nn.Module):
    """PoPE of a fixed number of positions; heads first."""

    q_cos: Tensor
    q_sin: Tensor
    k_cos: Tensor
    k_sin: Tensor

    def __init__(self, of_q: tuple[Tensor, Tensor], of_k: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        for name, (cos, sin) in (("q", of_q), ("k", of_k)):
            self.register_buffer(f"{name}_cos", cos)
            self.register_buffer(f"{name}_sin", sin)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """q, k: (batch, heads, positions, dim_head) -> (..., 2 * dim_head)."""
        q, k = F.softplus(q), F.softplus(k)
        q = torch.cat((q * self.q_cos, q * self.q_sin), dim=-1)
        k = torch.cat((k * self.k_cos, k * self.k_sin), dim=-1)
        return q, k


class Attention(nn.Module):
    """Pre-norm attention with positions and a sigmoid gate per head; one product for q, k, v and gates.

    3-D attention, (batch, positions, heads * width), is about twice as fast on ONNX Runtime's CPU as 4-D,
    (batch, heads, positions, width). TensorRT-RTX has fused kernels for 4-D attention in fp16 and bf16, with
    two kernels less per layer than for 3-D; in float32 it has none and refuses the node.
    """

    def __init__(self, attention: Any, positions: Rotated | Polar, form: Form) -> None:
        super().__init__()
        self.heads, dim_head = attention.heads, attention.dim_head
        self.inner, self.positions = self.heads * dim_head, positions
        self.dtype = DTYPES[form.attention or form.precision]
        on_tensorrt, polar = form.engine == "tensorrt", isinstance(positions, Polar)
        self.heads_first = on_tensorrt or polar
        self.node = not on_tensorrt or self.dtype != torch.float32
        self.norm = EngineRMSNorm(attention.norm)
        rows: Tensor = attention.to_qkv.weight
        bias = torch.zeros(len(rows)) if attention.to_qkv.bias is None else attention.to_qkv.bias
        # 1/sqrt(dim_head) belongs to the scores. Rotary is linear, so it can be folded into W_q, where for
        # 64 it is exactly 1/8; PoPE is not.
        self.scale = dim_head**-0.5 if polar else 1.0
        if not polar:
            order = _half_split_rows(self.heads, dim_head)
            order = torch.cat((order, order + self.inner, torch.arange(2 * self.inner, len(rows))))
            gain = torch.ones(len(rows))
            gain[: self.inner] = dim_head**-0.5
            rows, bias = rows[order] * gain[:, None], bias[order] * gain
        gates, out = attention.to_gates, attention.to_out[0]
        self.project = Linear(torch.cat((rows, gates.weight)), torch.cat((bias, gates.bias)), form.product)
        self.to_out = Linear(out.weight, out.bias, form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        return self.attended(self.project(self.norm(x)))

    def attended(self, projected: Tensor) -> Tensor:
        """q, k, v and gates in a row, (batch, positions, 3 * inner + heads) -> (batch, positions, dim)."""
        out, gates = self._heads_first(projected) if self.heads_first else self._heads_last(projected)
        out = out * cast(gates, torch.float32).sigmoid().unsqueeze(-1)
        return self.to_out(out.flatten(2))

    def _heads_last(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, positions, 3 * inner + heads) -> (batch, positions, heads, width), gates; 3-D attention."""
        batch, length, _ = projected.shape
        q, k, v, gates = projected.split([self.inner] * 3 + [self.heads], dim=-1)
        q, k, v = (cast(part, self.dtype) for part in (q, k, v))
        q, k = self.positions(
            q.reshape(batch, length, self.heads, -1), k.reshape(batch, length, self.heads, -1)
        )
        q, k = (cast(part.flatten(2), self.dtype) for part in (q, k))
        out = attend(q, k, v, heads=self.heads, scale=self.scale)
        return out.reshape(batch, length, self.heads, -1), gates

    def _heads_first(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, positions, 3 * inner + heads) -> (batch, positions, heads, width), gates; 4-D attention.

        Angles are applied in float32, so that q and k are rounded once, to the type of attention.
        """
        qkv, gates = projected.split([3 * self.inner, self.heads], dim=-1)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.positions(q.float(), k.float())
        # TensorRT's parser rounds sqrt(scale) to 16 bits; 1 it leaves alone.
        q = q if self.scale == 1.0 else q * self.scale
        q, k, v = (cast(part, self.dtype) for part in (q, k, v))
        return attend_heads(q, k, v, node=self.node).transpose(1, 2), gates


class Turned(nn.Module):
    """Attention along one axis of a stream that stays as it is, (batch, bands, frames, dim)."""

    def __init__(self, attention: nn.Module, *, over_bands: bool) -> None:
        super().__init__()
        self.attention, self.over_bands = attention, over_bands

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, bands, frames, dim) -> the same shape, the residual not yet added."""
        x = x.transpose(1, 2) if self.over_bands else x
        out: Tensor = self.attention(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return out.transpose(1, 2) if self.over_bands else out


class LinearAttention(nn.Module):
    """Linear attention; what is small, but over thousands of positions, is float32 in every form."""

    def __init__(self, attention: Any, form: Form) -> None:
        super().__init__()
        self.heads = attention.heads
        self.norm = EngineRMSNorm(attention.norm)
        self.project = Linear(attention.to_qkv[0].weight, None, form.product)
        self.gain = frozen(attention.temperature.double().exp().float() * plain.LINEAR_ATTENTION_SCALE)
        self.to_out = Linear(attention.to_out[1].weight, None, form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        batch, length, _ = x.shape
        qkv = cast(self.project(self.norm(x)), torch.float32).reshape(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)
        scores = _l2_normalised(q) * self.gain @ _l2_normalised(k).transpose(-1, -2)
        out = scores.softmax(dim=-1) @ v
        return self.to_out(out.permute(0, 3, 1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with an exact (erf) GELU; `share` of what comes out."""

    def __init__(self, feed_forward: Any, form: Form, share: float = 1.0) -> None:
        super().__init__()
        norm, widen, _, _, narrow = feed_forward.net
        self.norm = EngineRMSNorm(norm)
        self.widen = Linear(widen.weight, widen.bias, form.product)
        self.narrow = Linear(share * narrow.weight, share * narrow.bias, form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape, the residual not yet added."""
        return self.narrow(F.gelu(self.widen(self.norm(x))))


class Convolution(nn.Module):
    """A conformer's convolution over the positions; its BatchNorm is folded into it, in float64."""

    def __init__(self, convolution: Any, form: Form) -> None:
        super().__init__()
        norm, _, widen, _, over, batch_norm, _, narrow = convolution.net
        gain = batch_norm.weight.double() / torch.sqrt(batch_norm.running_var.double() + batch_norm.eps)
        shift = batch_norm.bias.double() + (over.bias.double() - batch_norm.running_mean.double()) * gain
        self.norm = EngineRMSNorm(norm)
        self.widen = Linear(widen.weight.flatten(1), widen.bias, form.product)
        self.weight = frozen(over.weight.double() * gain[:, None, None], form.product)
        self.bias = frozen(shift, form.product)
        self.narrow = Linear(narrow.weight.flatten(1), narrow.bias, form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        value, gate = cast(self.widen(self.norm(x)), torch.float32).chunk(2, dim=-1)
        x = cast(value * gate.sigmoid(), self.weight.dtype).transpose(1, 2)
        channels, _, width = self.weight.shape
        x = F.conv1d(x, self.weight, self.bias, padding=width // 2, groups=channels)
        return self.narrow(F.silu(cast(x, torch.float32)).transpose(1, 2))


def _half_split_rows(heads: int, dim_head: int) -> Tensor:
    """Row order that turns interleaved pairs (0,1),(2,3),... into halves (0,2,4,...),(1,3,5,...) per head."""
    one_head = torch.arange(dim_head).view(-1, 2).T.reshape(-1)
    return (torch.arange(heads)[:, None] * dim_head + one_head[None]).reshape(-1)


def _l2_normalised(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON) * x.shape[-1] ** -0.5
