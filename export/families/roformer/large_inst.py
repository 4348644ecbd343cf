"""unwa's Large-Inst v2: a mask estimator that begins with transformers of its own."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from rofo.export.families.band_groups import Bands
from rofo.export.families.roformer.network import MaskEstimator, along_axes
from rofo.export.families.transformers import RMSNorm


class RefinedMaskEstimator(MaskEstimator):
    """Transformers over frames and over bands in turn and a norm, then the perceptrons.

    Its positions have angles that were trained, other ones than those of the network's layers.
    """

    def __init__(
        self, bands: Bands, channels: int, widths: Sequence[int], depth: int,
        transformer: Callable[[], nn.Module],
    ) -> None:  # fmt: skip
        super().__init__(bands, channels, widths)
        self.layers = nn.ModuleList(nn.ModuleList((transformer(), transformer())) for _ in range(depth))
        self.norm = RMSNorm(widths[0])

    def forward(self, x: Tensor, bins: int) -> Tensor:
        """x: (batch, frames, bands, dim) -> mask (batch, frames, bins, channels, 2)."""
        layer: Any
        for layer in self.layers:
            over_frames, over_bands = layer
            x = along_axes(over_frames, over_bands, x)
        return super().forward(self.norm(x), bins)
