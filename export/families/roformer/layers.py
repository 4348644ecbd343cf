"""Transformer blocks of the Roformers in the form that engines run fastest, built from public weights."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.roformer.positions import Polar, Rotary, half_split_rows
from rofo.export.graph.form import Form, cast, product
from rofo.export.graph.weights import Weights

# The networks divide by max(|x|, 1e-12), a clamp of the norm; RMSNormalization adds epsilon to the mean
# square. 1e-24 agrees to 1e-6 down to an rms of 1e-9; 1e-12 would be 29 % low at an rms of 1e-6.
NORM_EPSILON = 1e-24

LINEAR_ATTENTION_SCALE = 8.0


class RMSNorm(nn.Module):
    """x / |x| * sqrt(width) * gamma over the last axis."""

    def __init__(self, gamma: Tensor) -> None:
        super().__init__()
        self.gamma = _parameter(gamma)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) -> the same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.gamma, eps=NORM_EPSILON)


class Linear(nn.Module):
    """x @ weight + bias, with `weight` stored (inputs, outputs): the graph then needs no transpose."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = _parameter(weight.T.contiguous().to(dtype))
        self.bias = None if bias is None else _parameter(bias.to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., inputs), any float type -> (..., outputs) in the type of the weights."""
        x = product(x, self.weight)
        return x if self.bias is None else x + self.bias


class Attention(nn.Module):
    """Pre-norm attention with positions and a sigmoid gate per head; one product for q, k, v and gates."""

    def __init__(
        self, weights: Weights, prefix: str, *, dim: int, heads: int, dim_head: int,
        positions: Rotary | Polar, qkv_bias: Tensor | None, out_bias: Tensor | None, form: Form,
    ) -> None:  # fmt: skip
        super().__init__()
        inner = heads * dim_head
        self.heads, self.inner, self.positions = heads, inner, positions
        self.attention, self.attention_node = form.attention, form.attention_node
        self.heads_first = form.heads_first or isinstance(positions, Polar)
        self.norm = RMSNorm(weights.take(f"{prefix}.norm.gamma", dim))
        rows = weights.take(f"{prefix}.to_qkv.weight", 3 * inner, dim)
        bias = torch.zeros(3 * inner) if qkv_bias is None else qkv_bias.clone()
        rows, bias = self._reordered(rows, dim_head), self._reordered(bias[:, None], dim_head)[:, 0]
        self.project = Linear(
            torch.cat((rows, weights.take(f"{prefix}.to_gates.weight", heads, dim))),
            torch.cat((bias, weights.take(f"{prefix}.to_gates.bias", heads))),
            form.product,
        )
        self.to_out = Linear(weights.take(f"{prefix}.to_out.0.weight", dim, inner), out_bias, form.product)
        # 1/sqrt(dim_head) belongs to the scores. Rotary is linear, so it can be folded into W_q, where for
        # 64 it is exactly 1/8; PoPE is not.
        self.scale = dim_head**-0.5 if isinstance(positions, Polar) else 1.0

    def _reordered(self, rows: Tensor, dim_head: int) -> Tensor:
        if isinstance(self.positions, Polar):
            return rows
        order = half_split_rows(self.heads, dim_head)
        q, k, v = rows.chunk(3)
        return torch.cat((q[order] * dim_head**-0.5, k[order], v))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        projected = self.project(self.norm(x))
        out, gates = self._heads_first(projected) if self.heads_first else self._heads_last(projected)
        out = out * cast(gates, torch.float32).sigmoid().unsqueeze(-1)
        return self.to_out(out.flatten(2))

    def _heads_last(self, projected: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, positions, 3 * inner + heads) -> (batch, positions, heads, width), gates; 3-D attention."""
        batch, length, _ = projected.shape
        q, k, v, gates = projected.split([self.inner] * 3 + [self.heads], dim=-1)
        q, k, v = (cast(part, self.attention) for part in (q, k, v))
        q, k = self.positions(
            q.reshape(batch, length, self.heads, -1), k.reshape(batch, length, self.heads, -1)
        )
        out = attend(q.flatten(2), k.flatten(2), v, heads=self.heads, scale=self.scale)
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
        q, k, v = (cast(part, self.attention) for part in (q, k, v))
        return attend_heads(q, k, v, node=self.attention_node).transpose(1, 2), gates


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
    """Attention between channels instead of positions (arXiv 2106.09681): cost linear in the length.

    q and k are normalised over the positions; no gate and no position embedding, so the order of the
    positions does not matter.
    """

    def __init__(
        self, weights: Weights, prefix: str, *, dim: int, heads: int, dim_head: int, form: Form
    ) -> None:
        super().__init__()
        inner = heads * dim_head
        self.heads = heads
        self.norm = RMSNorm(weights.take(f"{prefix}.norm.gamma", dim))
        self.project = Linear(weights.take(f"{prefix}.to_qkv.0.weight", 3 * inner, dim), None, form.product)
        temperature = weights.take(f"{prefix}.temperature", heads, 1, 1)
        self.gain = _parameter(temperature.double().exp().float() * LINEAR_ATTENTION_SCALE)
        self.to_out = Linear(weights.take(f"{prefix}.to_out.1.weight", dim, inner), None, form.product)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape, the residual not yet added."""
        batch, length, _ = x.shape
        # Small, but over thousands of positions: in float32 in every form.
        qkv = cast(self.project(self.norm(x)), torch.float32).reshape(batch, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 4, 1).unbind(0)
        scores = _l2_normalised(q) * self.gain @ _l2_normalised(k).transpose(-1, -2)
        out = scores.softmax(dim=-1) @ v
        return self.to_out(out.permute(0, 3, 1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """Pre-norm two-layer perceptron with an exact (erf) GELU."""

    def __init__(self, weights: Weights, prefix: str, *, dim: int, mult: int, form: Form) -> None:
        super().__init__()
        hidden = dim * mult
        self.norm = RMSNorm(weights.take(f"{prefix}.net.0.gamma", dim))
        self.widen, self.narrow = (
            Linear(
                weights.take(f"{prefix}.net.{i}.weight", outputs, inputs),
                weights.take(f"{prefix}.net.{i}.bias", outputs),
                form.product,
            )
            for i, outputs, inputs in ((1, hidden, dim), (4, dim, hidden))
        )

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., dim) -> the same shape, the residual not yet added."""
        return self.narrow(F.gelu(self.widen(self.norm(x))))


class Transformer(nn.Module):
    """`depth` times attention and feed-forward, each added to its input; then `norm` if there is one."""

    def __init__(
        self, weights: Weights, prefix: str, *, dim: int, depth: int, mult: int,
        attention: Callable[[str], nn.Module], norm_output: bool, form: Form,
    ) -> None:  # fmt: skip
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(depth):
            block = f"{prefix}.layers.{i}"
            self.blocks.append(attention(f"{block}.0"))
            self.blocks.append(FeedForward(weights, f"{block}.1", dim=dim, mult=mult, form=form))
        self.norm = RMSNorm(weights.take(f"{prefix}.norm.gamma", dim)) if norm_output else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, dim) -> the same shape."""
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


def attend(q: Tensor, k: Tensor, v: Tensor, *, heads: int, scale: float) -> Tensor:
    """softmax(scale * q k^T) v per head; q, k, v: (batch, positions, heads * width).

    Exports as one 3-D ONNX Attention node, which ONNX Runtime runs about twice as fast and in half the
    memory as the 4-D form, and which OpenVINO fuses either way.
    """
    if torch.compiler.is_exporting():
        return torch.onnx.ops.attention(q, k, v, scale=scale, q_num_heads=heads, kv_num_heads=heads)[0]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, *, node: bool) -> Tensor:
    """softmax(q k^T) v per head; (batch, heads, positions, width).

    Exports as one 4-D Attention node, or without `node` as two products and a softmax.
    """
    if not node:
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    width, excess = v.shape[-1], q.shape[-1] - v.shape[-1]
    if excess and q.dtype != torch.float32:
        # PoPE's q and k are twice as wide as v; TensorRT's fused kernels know one width.
        return attend_heads(q, k, F.pad(v, (0, excess)), node=True)[..., :width]
    # torch 2.13 gives the result of its ONNX operator the width of q.
    if torch.compiler.is_exporting() and not excess:
        return torch.onnx.ops.attention(q, k, v, scale=1.0)[0]
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)


def _l2_normalised(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=NORM_EPSILON) * x.shape[-1] ** -0.5


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
