"""An MDX-Net as an engine runs it best."""

import torch
from torch import nn

from rofo.export.families.mdx_net.network import ConvTdfNet, TfcTdf
from rofo.export.graph.layers import SHARE, Stored, Times, arranged, copied, scale_weight
from rofo.export.graph.types import Form, frozen


def conv_tdf_engine(plain: ConvTdfNet, form: Form) -> nn.Module:
    """`plain` with its norms folded, UVR's gain in the last convolution, and the number types of `form`."""
    network = copied(plain)
    final = network.final_conv[0]
    scale_weight(final, plain.compensate)
    final.bias = frozen(final.get_parameter("bias") * plain.compensate)
    network.compensate = 1.0
    if form.product != torch.float32:
        _store(network, form.product)
    return arranged(network, form)


def _store(network: ConvTdfNet, dtype: torch.dtype) -> None:
    """Round what is read twice; both factors grow with the loudness, so that a share of their product is."""
    for i, block in enumerate(network.decoding_blocks):
        network.us[i] = nn.Sequential(network.us[i], Times(SHARE))
        scale_weight(block.get_submodule("tfc.H.0.0"), 1 / SHARE)
    network.encoding_blocks = nn.ModuleList(
        nn.Sequential(block, Stored(dtype)) for block in network.encoding_blocks
    )
    for block in network.modules():
        if isinstance(block, TfcTdf):
            block.tfc.H.append(Stored(dtype))
    network.final_conv.append(Stored(torch.float32))
