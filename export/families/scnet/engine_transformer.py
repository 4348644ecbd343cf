"""The dual paths of `scnet_tran` in the arrangement that engines run fastest, derived from the plain ones."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rofo.export.families.transformers import EngineRMSNorm
from rofo.export.graph.attention import attend, attend_heads
from rofo.export.graph.recurrent import Linear, staged_norm
from rofo.export.graph.types import DTYPES, Form, cast, frozen, product


class DualPathTransformer(nn.Module):
    """Same result as the plain one, of this many rows and frames."""

    def __init__(self, layer: Any, rows: int, frames: int, form: Form) -> None:
        super().__init__()
        over_rows, over_frames = layer.norm_layers
        self.over_rows = _Path(layer.freq_layer, over_rows, rows, form, turned=True)
        self.over_frames = _Path(layer.time_layer, over_frames, frames, form, turned=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, batch, frames, features) -> the same shape."""
        return self.over_frames(self.over_rows(x))


class _Path(nn.Module):
    """A norm over everything and a transformer along one axis, added to its input.

    Rows are first in the stream. `turned`, attention alone has them beside the features: all else takes
    features as they are, whatever lies before them.
    """

    def __init__(self, transformer: Any, norm: Any, positions: int, form: Form, *, turned: bool) -> None:
        super().__init__()
        self.eps, self.turned = norm.eps, turned
        self.scale, self.shift = frozen(norm.weight), frozen(norm.bias)
        self.blocks = nn.ModuleList()
        for attention, feed_forward in transformer.layers:
            self.blocks.extend((_Attention(attention, positions, form), _FeedForward(feed_forward, form)))
        self.norm = EngineRMSNorm(transformer.norm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, batch, frames, features) -> the same shape."""
        normed = staged_norm(x, 3, 2, 0, eps=self.eps) * self.scale + self.shift
        inner = normed.flatten(1, 2) if self.turned else normed.flatten(0, 1)
        for block in self.blocks:
            turned = self.turned and isinstance(block, _Attention)
            inner = inner + (block(inner.transpose(0, 1)).transpose(0, 1) if turned else block(inner))
        return x + self.norm(inner).view(x.shape)


class _FeedForward(nn.Module):
    def __init__(self, feed_forward: Any, form: Form) -> None:
        super().__init__()
        norm, widen, _, _, narrow = feed_forward.net
        self.norm = EngineRMSNorm(norm)
        self.widen, self.narrow = (Linear(part.weight, part.bias, form) for part in (widen, narrow))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width) -> the same shape, not yet added."""
        found: Tensor = self.narrow(F.gelu(self.widen(self.norm(x))))
        return found


class _Attention(nn.Module):
    """One product for q, k, v and gates; a node of three axes for processors, of four for TensorRT.

    Rows of the weights of q and k are reordered so that the features that turn together lie in two halves.
    """

    def __init__(self, attention: Any, positions: int, form: Form) -> None:
        super().__init__()
        self.heads, dim_head = attention.heads, attention.dim_head
        self.inner = self.heads * dim_head
        self.dtype = DTYPES[form.attention or form.precision]
        self.heads_first, self.node = form.engine == "tensorrt", self.dtype != torch.float32
        self.norm = EngineRMSNorm(attention.norm)
        q, k, v = attention.to_qkv.weight.unflatten(0, (3, self.heads, dim_head)).unbind(0)
        halves = torch.arange(dim_head).view(-1, 2).T.flatten()
        rows = torch.cat((q[:, halves] * dim_head**-0.5, k[:, halves], v)).flatten(0, 1)
        gates, out = attention.to_gates, attention.to_out[0]
        self.project = frozen(torch.cat((rows, gates.weight)).T.contiguous(), form.product)
        self.bias = frozen(gates.bias)
        self.to_out = Linear(out.weight, None, form)
        cos, sin = attention.rotary_embed.table(positions)
        axis = 0 if self.heads_first else 1
        self.cos, self.sin = frozen(cos.unsqueeze(axis)), frozen(sin.unsqueeze(axis))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, width) -> the same shape, not yet added."""
        qkv, gates = product(self.norm(x), self.project).split([3 * self.inner, self.heads], dim=-1)
        qkv = qkv.unflatten(-1, (3 * self.heads, -1))
        out = self._heads_first(qkv) if self.heads_first else self._heads_last(qkv)
        gates = (cast(gates, torch.float32) + self.bias).sigmoid()
        found: Tensor = self.to_out((out * gates.unsqueeze(-1)).flatten(2))
        return found

    def _heads_last(self, qkv: Tensor) -> Tensor:
        """(batch, positions, 3 * heads, dim_head) -> (batch, positions, heads, dim_head)."""
        q_k, v = qkv.split([2 * self.heads, self.heads], dim=2)
        q, k = cast(self._rotated(cast(q_k, torch.float32)), self.dtype).chunk(2, dim=2)
        v = cast(v, self.dtype)
        out = attend(q.flatten(2), k.flatten(2), v.flatten(2), heads=self.heads, scale=1.0)
        return out.unflatten(-1, (self.heads, -1))

    def _heads_first(self, qkv: Tensor) -> Tensor:
        """As _heads_last; q and k are rounded once, to the type of attention."""
        q_k, v = qkv.transpose(1, 2).split([2 * self.heads, self.heads], dim=1)
        q, k = cast(self._rotated(cast(q_k, torch.float32)), self.dtype).chunk(2, dim=1)
        return attend_heads(q, k, cast(v, self.dtype), node=self.node).transpose(1, 2)

    def _rotated(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * self.cos - b * self.sin, b * self.cos + a * self.sin), dim=-1)
