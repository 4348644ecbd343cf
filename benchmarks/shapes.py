"""Seeded checkpoints of the best-known public shapes, by name.

Speed and memory do not depend on what the weights are, and public ones carry no licence. The networks are
pymss-core's where it has them, else the family's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rofo.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """A public shape: its yaml, and its `model_type` in Music-Source-Separation-Training.

    Without one it is a Lightning checkpoint, and `config` the hyper-parameters that such a file holds.
    """

    about: str
    config: Options
    model_type: str | None = None


_VOCALS = {"instruments": ["vocals", "other"], "target_instrument": "vocals"}
BANDS = (2,) * 24 + (4,) * 12 + (12,) * 8 + (24,) * 8 + (48,) * 8 + (128, 129)


def _bs_roformer(**model: int) -> Options:
    usual = {
        "stereo": True, "num_stems": 1, "time_transformer_depth": 1, "freq_transformer_depth": 1,
        "freqs_per_bands": list(BANDS), "stft_hop_length": 441, "mask_estimator_depth": 2, "zero_dc": True,
    }  # fmt: skip
    return {
        "audio": {"chunk_size": 352800, "sample_rate": 44100, "num_channels": 2},
        "model": {**usual, **model},
        "training": _VOCALS,
        "inference": {"num_overlap": 2, "batch_size": 1},
    }


SHAPES = {
    "viperx": Shape(
        "BS-Roformer 512 x 12, chunks of 8 s",
        _bs_roformer(dim=512, depth=12, heads=8, dim_head=64),
        "bs_roformer",
    ),
    "small": Shape(
        "the same path with few weights",
        _bs_roformer(dim=16, depth=1, heads=1, dim_head=16),
        "bs_roformer",
    ),
    "mdx23c": Shape(
        "MSST's own MDX23C for vocals",
        {
            "audio": {
                "chunk_size": 261120, "dim_f": 4096, "dim_t": 256, "hop_length": 1024, "n_fft": 8192,
                "num_channels": 2, "sample_rate": 44100,
            },
            "model": {
                "act": "gelu", "bottleneck_factor": 4, "growth": 128, "norm": "InstanceNorm",
                "num_blocks_per_scale": 2, "num_channels": 128, "num_scales": 5, "num_subbands": 4,
                "scale": [2, 2],
            },
            "training": {**_VOCALS, "target_instrument": None},
            "inference": {"batch_size": 1, "dim_t": 256, "num_overlap": 4},
        },
        "mdx23c",
    ),
    "kim": Shape(
        "MDX-Net as Kim_Vocal_1 and 2, and UVR's Inst_1 to 3",
        {
            "target_name": "vocals", "optimizer": "rmsprop", "dim_c": 4, "num_blocks": 11, "l": 3, "g": 48,
            "k": 3, "bn": 8, "bias": False, "n_fft": 7680, "hop_length": 1024, "dim_f": 3072, "dim_t": 256,
        },
    ),
}  # fmt: skip


def write_shape(name: str, folder: Path, **changes: int) -> tuple[Path, Path | None]:
    """Write NAME.ckpt and, unless that says it all, NAME.yaml; `changes` go to its model section.

    Raises UsageError for a name that is none of SHAPES.
    """
    import torch
    import yaml

    if name not in SHAPES:
        raise UsageError(f"{name}: not a shape; choose among {', '.join(SHAPES)}")
    shape = SHAPES[name]
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
    torch.manual_seed(0)
    if shape.model_type is None:
        config_of = {**shape.config, **changes}
        state = _as_if_trained(_network_of(config_of)).state_dict()
        torch.save({"state_dict": state, "hyper_parameters": config_of}, checkpoint)
        return checkpoint, None
    described = {**shape.config, "model": {**shape.config["model"], **changes}}
    config.write_text(yaml.safe_dump(described))
    torch.save(pymss_network(shape.model_type, described).state_dict(), checkpoint)
    return checkpoint, config


def pymss_network(model_type: str, config: Options, **arguments: Any) -> Any:
    """pymss-core's network of a yaml, which is not written by us; `arguments` go before the yaml's.

    Raises what it raises.
    """
    import yaml
    from pymss_core import get_model_from_config

    with TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        network, _ = get_model_from_config(model_type, str(file), arguments)
    return network


# What of a network only its weights would tell.
_STATED_BY_WEIGHTS = {"norm": "BatchNorm", "num_stems": 1, "channels": 2}


def _network_of(hyper_parameters: Options) -> "nn.Module":
    """The plain network of the family that knows these hyper-parameters of Lightning."""
    from rofo.export.facts import Facts, complete, merge
    from rofo.export.families import FAMILIES
    from rofo.export.source import Source

    source = Source(Path("seeded.ckpt"), "", "", hyper_parameters=dict(hyper_parameters))
    for family in FAMILIES:
        config = family.hyper_parameters(source)
        if config is not None:
            said = Facts.said("yaml", family.yaml(config, Facts(), []))
            facts = merge(Facts.said("weights", _STATED_BY_WEIGHTS), said)
            return family.network(complete(family.complete(facts, [])))
    raise UsageError(f"no family knows the hyper-parameters {', '.join(hyper_parameters)}")


def _as_if_trained(network: "nn.Module") -> "nn.Module":
    """Norms that keep statistics get some."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network
