"""Seeded checkpoints of the best-known public shapes, by name.

Speed and memory do not depend on what the weights are, and public ones carry no licence. The networks are
pymss-core's where it has them, else the family's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rofo.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Shape:
    """A public shape: what its yaml says, or where it has none (`lightning`) its hyper-parameters.

    The network is pymss-core's of a `model_type`, or that of a `family` of ours, for which `weights` are the
    facts that only weights tell.
    """

    about: str
    config: Options
    model_type: str | None = None
    family: str | None = None
    weights: Options = field(default_factory=dict)
    lightning: bool = False


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


_FOUR = ["drums", "bass", "other", "vocals"]


def _demucs(about: str, name: str, segment: str, family: str = "demucs", **model: Any) -> Shape:
    """Demucs in MSST's layout, with the arguments that the public networks do not leave at their defaults."""
    sound: Options = {"architecture": name, "channels": 2, "num_stems": 4, "waveform": True}
    if family == "demucs_wave":
        sound = {**sound, "spectrogram": False, "generation": 3}
    training = {"instruments": _FOUR, "samplerate": 44100, "channels": 2, "segment": segment}
    return Shape(about, {"model": name, name: model, "training": training}, family=family, weights=sound)


def _scnet(about: str, *, normalize: bool, **model: Any) -> Shape:
    usual = {"sources": _FOUR, "audio_channels": 2, "nfft": 4096, "hop_size": 1024, "win_size": 4096,
             "normalized": True, "compress": 4, "conv_kernel": 3, "expand": 1}  # fmt: skip
    config = {
        "audio": {"chunk_size": 485100, "sample_rate": 44100, "num_channels": 2},
        "model": {**usual, **model},
        "training": {"instruments": _FOUR, "target_instrument": None},
        "inference": {"num_overlap": 4, "batch_size": 1, "normalize": normalize},
    }
    return Shape(about, config, "scnet")


# Of the network for vocals: 100 Hz each up to 1 kHz, 250 up to 4, 500 up to 8, 1 kHz up to 16, 2 up to 20.
_VOCAL_BANDS = (4,) * 10 + (11,) * 12 + (23,) * 8 + (46,) * 8 + (92,) * 2 + (117,)


def _bsrnn(about: str, **attention: int) -> Shape:
    sizes = {"feature_dim": 64, "num_repeat": 8, "time_layer": "lstm", "band_layer": "lstm", **attention}
    sound = {"target": "vocals", "sample_rate": 44100, "n_fft": 2048, "n_hop": 512}
    shapes = {"architecture": "bsrnn", "num_stems": 1, "bands": (_VOCAL_BANDS,), "fac_sep": 2, "fac_mask": 4}
    weights = {"n_att_head": 0, **sizes, **shapes}
    return Shape(about, {**sound, **sizes}, family="bsrnn", weights=weights, lightning=True)


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
    "kim": Shape(
        "MDX-Net as Kim_Vocal_1 and 2, and UVR's Inst_1 to 3",
        {
            "target_name": "vocals", "optimizer": "rmsprop", "dim_c": 4, "num_blocks": 11, "l": 3, "g": 48,
            "k": 3, "bn": 8, "bias": False, "n_fft": 7680, "hop_length": 1024, "dim_f": 3072, "dim_t": 256,
        },
        family="mdx_net",
        weights={"norm": "BatchNorm", "num_stems": 1, "channels": 2},
        lightning=True,
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
    "htdemucs": _demucs(
        "Demucs v4, htdemucs and each network of htdemucs_ft", "htdemucs", "39/5", channels=48, depth=4,
        growth=2, nfft=4096, dconv_mode=3, dconv_depth=2, dconv_comp=8, bottom_channels=512, t_layers=5,
    ),
    "hdemucs": _demucs(
        "Demucs v3, mdx_extra", "hdemucs", "44", channels=48, depth=6, growth=2, nfft=4096, dconv_mode=1,
        dconv_depth=2, dconv_comp=4,
    ),
    "demucs": _demucs(
        "Demucs v3 of one branch, the waveform's, as in the bag mdx", "demucs", "44", "demucs_wave",
        channels=64, depth=6, growth=2, kernel_size=8, context=1, dconv_mode=1, dconv_depth=2, dconv_comp=4,
    ),
    "scnet": _scnet(
        "SCNet, MSST's small one for four stems", normalize=True, dims=[4, 32, 64, 128],
        band_SR=[0.175, 0.392, 0.433], band_stride=[1, 4, 16], band_kernel=[3, 4, 16], conv_depths=[3, 2, 1],
        num_dplayer=6,
    ),
    "scnet_xl": _scnet(
        "SCNet XL IHF", normalize=False, dims=[4, 64, 128, 256], band_SR=[0.23, 0.37, 0.4],
        band_stride=[1, 4, 4], band_kernel=[3, 4, 4], conv_depths=[3, 3, 3], num_dplayer=8,
    ),
    "bsrnn": _bsrnn("BSRNN 64 x 8 for vocals, LSTM"),
    "bsrnn_attention": _bsrnn("the same, one head of TF-GridNet's attention", n_att_head=1, attn_enc_dim=10),
}  # fmt: skip


def write_shape(name: str, folder: Path, **changes: Any) -> tuple[Path, Path | None]:
    """Write NAME.ckpt and, unless that says it all, NAME.yaml; `changes` go to its model section.

    Raises UsageError for a name that is none of SHAPES.
    """
    import torch
    import yaml

    if name not in SHAPES:
        raise UsageError(f"{name}: not a shape; choose among {', '.join(SHAPES)}")
    shape = _changed(SHAPES[name], changes)
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, config = folder / f"{name}.ckpt", folder / f"{name}.yaml"
    torch.manual_seed(0)
    if shape.model_type is None:
        state = _as_if_trained(_network_of(shape)).state_dict()
    else:
        state = pymss_network(shape.model_type, shape.config).state_dict()
    if shape.lightning:
        torch.save({"state_dict": state, "hyper_parameters": shape.config}, checkpoint)
        return checkpoint, None
    config.write_text(yaml.safe_dump(shape.config))
    torch.save(state, checkpoint)
    return checkpoint, config


def _changed(shape: Shape, changes: Options) -> Shape:
    """With other sizes; Demucs' section is named by what stands where others have theirs."""
    if shape.lightning:
        known = {name: changes.get(name, value) for name, value in shape.weights.items()}
        return replace(shape, config={**shape.config, **changes}, weights=known)
    model = shape.config["model"]
    section = model if isinstance(model, str) else "model"
    return replace(shape, config={**shape.config, section: {**shape.config[section], **changes}})


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


def _network_of(shape: Shape) -> "nn.Module":
    """The plain network of the family whose file this is to be."""
    from rofo.export.facts import Facts, complete, merge
    from rofo.export.families import FAMILIES
    from rofo.export.source import Source

    source = Source(Path("seeded.ckpt"), "", "", hyper_parameters=dict(shape.config))
    weights = Facts.said("weights", shape.weights)
    (family,) = (family for family in FAMILIES if family.name == shape.family)
    told = family.hyper_parameters(source) if shape.lightning else shape.config
    said = Facts.said("yaml", family.yaml(told or {}, weights, []))
    return family.network(complete(family.complete(merge(weights, said), [])))


def _as_if_trained(network: "nn.Module") -> "nn.Module":
    """Norms that keep statistics get some, and scales that training begins near zero are grown."""
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    for name, parameter in network.named_parameters():
        if name.endswith(".scale"):
            nn.init.uniform_(parameter, 0.1, 0.3)
    return network
