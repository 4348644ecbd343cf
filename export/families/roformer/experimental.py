"""MSST's `bs_roformer_experimental` and `mel_band_roformer_experimental`, of February 2025.

They came with value residuals and hyper-connections. With one residual stream, a transformer that is handed
values of an earlier layer leaves out the sums with its input, which hyper-connections would have made; it is
handed them from the second layer on, whether they are mixed or not. The names of the weights are those of
MSST's other Roformers: only the yaml tells. zero_dc and PoPE are later, and linear attention fails there.
"""

from typing import Any

from torch import nn

SUFFIX = "_experimental"
LATER = frozenset({"zero_dc", "use_pope"})  # options that these classes refuse


def without_residuals(layers: nn.ModuleList) -> None:
    """Have what each block of the second and later layers gives take the place of its input."""
    layer: Any
    for layer in list(layers)[1:]:
        for transformer in layer:
            transformer.residual = False
