"""What is said about a convolutional network, held against its weights, and both together as its config."""

from collections.abc import Mapping
from typing import Any

from rofo.export.families.mdx_net.config import ConvTdfConfig, TfcTdfConfig, elu_alpha, norm_groups
from rofo.export.families.mdx_net.shapes import ConvTdfShapes, TfcTdfShapes
from rofo.text import short

_NO_STATISTICS = "its BatchNorms have no running_mean and running_var, only what was trained"

# Options of a yaml's model section: those that decide on weights, those that do not, those without effect
# ("name" is the file of weights in kuielab's).
_OF_WEIGHTS = (
    "num_channels", "growth", "num_scales", "num_blocks_per_scale", "bottleneck_factor", "scale",
)  # fmt: skip
_OTHERS = ("num_subbands", "norm", "act", "name")


def conv_tdf_norm(told: Mapping[str, Any], shapes: ConvTdfShapes) -> str:
    """The norm: the weights', else the one that UVR's code pairs with the optimizer (adamw: GroupNorm2)."""
    return shapes.norm or ("GroupNorm2" if told.get("optimizer") == "adamw" else "BatchNorm")


def conv_tdf_contradictions(told: Mapping[str, Any], shapes: ConvTdfShapes) -> list[str]:
    """Where Lightning's hyper-parameters and the weights disagree, one clause each.

    Without hyper-parameters (`told` is empty) norms that keep no statistics are a problem as well: they may
    be BatchNorms whose statistics were left out.
    """
    problems = _differences(told, _conv_tdf_claims(shapes))
    blocks = told.get("num_blocks")
    if isinstance(blocks, int) and blocks // 2 != shapes.num_scales:
        problems.append(f"num_blocks is {blocks} but the weights have {shapes.num_scales} scales")
    norm = conv_tdf_norm(told, shapes)
    if shapes.norm is None and norm == "BatchNorm":
        problems.append(_NO_STATISTICS)
    if shapes.norm == "BatchNorm" and told.get("optimizer") == "adamw":
        problems.append("optimizer is 'adamw', which goes with GroupNorm, but BatchNorm in the weights")
    return problems


def tfc_tdf_contradictions(told: Mapping[str, Any], shapes: TfcTdfShapes) -> list[str]:
    """Where a yaml and the weights disagree, or it asks for what is not supported, one clause each."""
    audio, model = (_section(told, name) for name in ("audio", "model"))
    claims = {name: value for name, value in vars(shapes).items() if name in _OF_WEIGHTS}
    problems = _differences(model, {**claims, "scale": list(shapes.scale)})
    problems += _sub_band_problems(audio, model, shapes)
    problems += _norm_problems(model.get("norm"), shapes)
    act = model.get("act", "gelu")
    if act not in ("gelu", "relu") and elu_alpha(str(act)) is None:
        problems.append(f"act is {short(act)}, known are gelu, relu and eluA with a number A")
    unknown = sorted(str(name) for name in model if name not in (*_OF_WEIGHTS, *_OTHERS))
    return problems + ([f"unknown model options {', '.join(unknown)}"] if unknown else [])


def conv_tdf_config(
    shapes: ConvTdfShapes, *, sample_rate: int, n_fft: int, hop_length: int, dim_f: int, norm: str,
    zero_bins: int, compensate: float,
) -> ConvTdfConfig:  # fmt: skip
    """Shapes and what they cannot say."""
    known = {name: value for name, value in vars(shapes).items() if name != "dim_t"}
    known |= {"n_fft": n_fft, "dim_f": dim_f, "norm": norm}
    return ConvTdfConfig(
        **known,
        sample_rate=sample_rate,
        hop_length=hop_length,
        zero_bins=zero_bins,
        compensate=compensate,
    )


def tfc_tdf_config(
    shapes: TfcTdfShapes, *, sample_rate: int, channels: int, n_fft: int, hop_length: int, norm: str, act: str
) -> TfcTdfConfig:
    """Shapes and what they cannot say; the `channels` of audio tell how many sub-bands there are."""
    known = {name: value for name, value in vars(shapes).items() if name not in ("inputs", "sub_bins")}
    subbands = shapes.inputs // (2 * channels)
    return TfcTdfConfig(
        **{**known, "norm": norm},
        channels=channels,
        sample_rate=sample_rate,
        n_fft=n_fft,
        hop_length=hop_length,
        num_subbands=subbands,
        dim_f=subbands * shapes.sub_bins,
        act=act,
    )


def _conv_tdf_claims(shapes: ConvTdfShapes) -> dict[str, Any]:
    """Hyper-parameters of ConvTDFNet whose values the weights decide, with these values."""
    by_transform = {"dim_f": shapes.dim_f, "dim_t": shapes.dim_t, "n_fft": shapes.n_fft}
    claims = {
        "dim_c": 2 * shapes.channels,
        "g": shapes.growth,
        "k": shapes.kernel,
        "l": shapes.layers,
        "bn": shapes.bottleneck,
        **{name: value for name, value in by_transform.items() if value is not None},
    }
    return claims if shapes.bottleneck is None else {**claims, "bias": shapes.tdf_bias}


def _differences(told: Mapping[str, Any], true: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {short(told[name])} but {value} in the weights"
        for name, value in true.items()
        if name in told and told[name] != value
    ]


def _section(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a section of a yaml says, less what it leaves empty."""
    section = told.get(name)
    if not isinstance(section, Mapping):
        return {}
    listed = {key: list(value) if isinstance(value, tuple) else value for key, value in section.items()}
    return {key: value for key, value in listed.items() if value is not None}


def _sub_band_problems(audio: Mapping[str, Any], model: Mapping[str, Any], shapes: TfcTdfShapes) -> list[str]:
    channels = audio.get("num_channels", 2)
    if channels not in (1, 2) or shapes.inputs % (2 * channels):
        return [f"num_channels is {short(channels)} but the weights have {shapes.inputs} inputs"]
    subbands = shapes.inputs // (2 * channels)
    problems = _differences(model, {"num_subbands": subbands})
    return problems + _differences(audio, {"dim_f": subbands * shapes.sub_bins})


def _norm_problems(norm: Any, shapes: TfcTdfShapes) -> list[str]:
    if norm is None:
        return []
    if norm not in ("InstanceNorm", "BatchNorm") and norm_groups(str(norm)) is None:
        return [f"norm is {short(norm)}, known are InstanceNorm, BatchNorm and GroupNormN with a number N"]
    if norm == "BatchNorm" and shapes.norm is None:
        return [_NO_STATISTICS]
    return [] if shapes.norm in (None, norm) else [f"norm is {norm} but {shapes.norm} in the weights"]
