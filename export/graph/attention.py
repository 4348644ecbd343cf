"""Attention as one node of a graph."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, *, heads: int, scale: float) -> Tensor:
    """softmax(scale * q k^T) v per head; q, k, v: (batch, positions, heads * width).

    Exports as one 3-D ONNX Attention node.
    """
    if torch.compiler.is_exporting():
        return torch.onnx.ops.attention(q, k, v, scale=scale, q_num_heads=heads, kv_num_heads=heads)[0]
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)


def attend_heads(q: Tensor, k: Tensor, v: Tensor, *, node: bool) -> Tensor:
    """softmax(q k^T) v per head; (batch, heads, positions, width).

    Exports as one 4-D Attention node, or without `node` as two products and a softmax.
    """
    width, excess = v.shape[-1], q.shape[-1] - v.shape[-1]
    exporting = torch.compiler.is_exporting()
    if exporting and not node:
        return (q @ k.transpose(-1, -2)).softmax(dim=-1) @ v
    if excess and q.dtype != torch.float32:
        # PoPE's q and k are twice as wide as v; TensorRT's fused kernels know one width.
        return attend_heads(q, k, F.pad(v, (0, excess)), node=node)[..., :width]
    # torch 2.13 gives the result of its ONNX operator the width of q.
    if exporting and not excess:
        return torch.onnx.ops.attention(q, k, v, scale=1.0)[0]
    return F.scaled_dot_product_attention(q, k, v, scale=1.0)
