"""A TFC-TDF v3 as an engine runs it best."""

import torch
from torch import Tensor, nn

from rofo.export.families.tfc_tdf.network import TfcTdfNet
from rofo.export.graph.layers import SHARE, Stored, arranged, copied, scale_weight
from rofo.export.graph.types import Form, cast


class SharedJoin(nn.Module):
    """`Join` of a share of both, in 16 bits: both factors of the product grow with the loudness."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, packed: Tensor, first: Tensor, x: Tensor) -> Tensor:
        """(batch, ..., frames, bins), joined along the channels."""
        return torch.cat((cast(packed * SHARE, self.dtype), x * SHARE * first), dim=1)


def tfc_tdf_engine(plain: TfcTdfNet, form: Form) -> nn.Module:
    """`plain` with what norms it can folded, and the number types of `form`."""
    network = copied(plain)
    if form.product != torch.float32:
        network.join = SharedJoin(form.product)
        scale_weight(network.final_conv[0], 1 / SHARE)
        network.final_conv.append(Stored(torch.float32))
    return arranged(network, form)
