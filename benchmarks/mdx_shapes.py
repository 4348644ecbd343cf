"""Checkpoints of the best-known convolutional shapes, with seeded weights: Kim's MDX-Net and MSST's MDX23C.

`python -m rofo.benchmarks.mdx_shapes FOLDER` writes kim.ckpt, mdx23c.ckpt and mdx23c.yaml.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Hyper-parameters of Kim_Vocal_1 and 2, and of UVR's Inst_1 to 3, as their training saves them.
KIM: dict[str, Any] = {
    "target_name": "vocals", "optimizer": "rmsprop", "dim_c": 4, "num_blocks": 11, "l": 3, "g": 48, "k": 3,
    "bn": 8, "bias": False, "n_fft": 7680, "hop_length": 1024, "dim_f": 3072, "dim_t": 256,
}  # fmt: skip

# MSST's own configuration for vocals.
MDX23C: dict[str, Any] = {
    "audio": {
        "chunk_size": 261120, "dim_f": 4096, "dim_t": 256, "hop_length": 1024, "n_fft": 8192,
        "num_channels": 2, "sample_rate": 44100,
    },
    "model": {
        "act": "gelu", "bottleneck_factor": 4, "growth": 128, "norm": "InstanceNorm",
        "num_blocks_per_scale": 2, "num_channels": 128, "num_scales": 5, "num_subbands": 4, "scale": [2, 2],
    },
    "training": {"instruments": ["vocals", "other"], "target_instrument": None},
    "inference": {"batch_size": 1, "dim_t": 256, "num_overlap": 4},
}  # fmt: skip


def main() -> None:
    """Write them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_kim(folder)
    write_mdx23c(folder)


def write_kim(folder: Path) -> Path:
    """A Lightning checkpoint of a plain ConvTDFNet whose norms have statistics as if trained."""
    import torch
    from torch import nn

    from rofo.benchmarks.conv_tdf_net import ConvTdfNet

    torch.manual_seed(0)
    network = ConvTdfNet(KIM)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    path = folder / "kim.ckpt"
    torch.save({"state_dict": network.state_dict(), "hyper_parameters": KIM}, path)
    return path


def write_mdx23c(folder: Path) -> tuple[Path, Path]:
    """State dict and yaml of pymss-core's network."""
    import torch
    import yaml
    from pymss_core.modules.mdx23c_tfc_tdf_v3 import TFC_TDF_net

    torch.manual_seed(0)
    sections = SimpleNamespace(**{name: SimpleNamespace(**section) for name, section in MDX23C.items()})
    checkpoint, config = folder / "mdx23c.ckpt", folder / "mdx23c.yaml"
    torch.save(TFC_TDF_net(sections).state_dict(), checkpoint)
    config.write_text(yaml.safe_dump(MDX23C))
    return checkpoint, config


if __name__ == "__main__":
    main()
