"""Value residual learning (arXiv 2410.17897) in a Roformer, as lucidrains/BS-RoFormer 0.5 has it.

The public checkpoint (unwa's Inst-EXP-VRL, December 2024) was trained by that; MSST took it up in February
2025 under the same names of weights, but leaves sums out: experimental.py.
"""

from typing import Any

from torch import Tensor, nn

from rofo.export.families.roformer.network import Roformer

Values = Tensor | None  # (rows, heads, positions, dim_head) of the first layer along an axis, once known


class ValueResidualRoformer(Roformer):
    """From the second layer on an attention's values are mixed, head by head, with those of the first."""

    def __init__(self, *, dim: int, heads: int, **arguments: Any) -> None:
        super().__init__(dim=dim, heads=heads, **arguments)
        layer: Any
        for layer in list(self.layers)[1:]:
            for transformer in layer:
                for attention, _ in transformer.layers:
                    attention.to_value_residual_mix = nn.Linear(dim, heads)

    def transformed(self, x: Tensor) -> Tensor:
        """As in Roformer."""
        outputs: list[Tensor] = []
        of_frames: Values = None
        of_bands: Values = None
        layer: Any
        for layer in self.layers:
            over_frames, over_bands = layer
            x, of_frames = _along_rows(over_frames, sum(outputs, x).transpose(1, 2), of_frames)
            x, of_bands = _along_rows(over_bands, x.transpose(1, 2), of_bands)
            if self.skip_connection:
                outputs.append(x)
        return self.final_norm(x)


def _along_rows(transformer: Any, x: Tensor, first: Values) -> tuple[Tensor, Tensor]:
    """x: (batch, rows, positions, dim), values to mix in -> the same shape, values for later layers."""
    rows, later = x.flatten(0, 1), first
    for attention, feed_forward in transformer.layers:
        out, values = _attended(attention, rows, first)
        later = values if later is None else later
        rows = transformer.joined(rows, out)
        rows = transformer.joined(rows, feed_forward(rows))
    assert later is not None
    return transformer.norm(rows).unflatten(0, x.shape[:2]), later


def _attended(attention: Any, x: Tensor, first: Values) -> tuple[Tensor, Tensor]:
    """x: (batch, positions, dim) -> what Attention gives for it, and its own values."""
    x = attention.norm(x)
    q, k, v = attention.projected(x)
    mixed = v
    if first is not None:
        mixed = v.lerp(first, attention.to_value_residual_mix(x).sigmoid().transpose(1, 2)[..., None])
    return attention.attended(x, q, k, mixed), v
