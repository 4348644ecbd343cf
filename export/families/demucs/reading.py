"""What a file says of a hybrid Demucs: its keys and shapes, facebook's package, or MSST's yaml."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from rofo.export.families.demucs.sizes import Sizes
from rofo.export.source import Source
from rofo.export.source.keys import Keys
from rofo.export.source.msst import Section
from rofo.text import short

# Of the sizes those that are true or false.
FLAGS = frozenset(("cac", "stft_border_kept", "gelu", "levelled", "resample"))

# What MSST's yaml calls a network -> the class of facebook's packages.
CLASSES = {"hdemucs": "demucs.hdemucs.HDemucs", "htdemucs": "demucs.htdemucs.HTDemucs"}
# The spectrogram's outermost convolution, of all bins or of the first band.
FIRST, FIRST_BAND = "encoder.0.conv.weight", "encoder.0.layers.0.conv.weight"


@dataclass(frozen=True)
class Arguments:
    """The arguments of a class.

    `sizes` become facts, under their own names or those in `renamed`; of `always` the published networks have
    these values, and no other is supported; `unused` only matter while training, or with one of those others.
    """

    sizes: frozenset[str]
    renamed: Mapping[str, str]
    always: Mapping[str, tuple[Any, ...]]
    unused: frozenset[str]


HYBRID = Arguments(
    sizes=frozenset(field.name for field in fields(Sizes)) - {"audio_channels", "num_stems"}
    | {"stft_border_kept"},
    renamed={"channels": "width", "nfft": "n_fft", "hybrid_old": "stft_border_kept"},
    always={
        "rewrite": (True,), "hybrid": (True,), "wiener_iters": (None, 0), "wiener_residual": (None, False),
        "channels_time": (None,), "num_subbands": (1,),
        "t_emb": ("sin",), "t_norm_in": (True,), "t_norm_in_group": (False,), "t_group_norm": (False,),
        "t_norm_first": (True,), "t_norm_out": (True,), "t_layer_scale": (True,), "t_gelu": (True,),
        "t_sin_random_shift": (0,), "t_sparse_self_attn": (False,), "t_sparse_cross_attn": (False,),
        "t_cross_first": (False,),
    },
    unused=frozenset(
        ("end_iters", "emb_smooth", "dconv_init",
         "rescale", "t_dropout", "t_max_positions", "t_weight_decay", "t_lr", "t_cape_mean_normalize",
         "t_cape_augment",
         "t_cape_glob_loc_scale", "t_mask_type", "t_mask_random_seed", "t_sparse_attn_window",
         "t_global_window", "t_sparsity", "t_auto_sparsity", "use_train_segment")
    ),
)  # fmt: skip


def weights_facts(source: Source) -> dict[str, Any]:
    """The facts that keys and shapes decide. Raises CheckpointError where one is missing or misshapen."""
    keys = Keys(source.path, source.state, "Demucs")
    transformer = any(key.startswith("crosstransformer.") for key in source.state)
    depth = keys.count(r"encoder\.(\d+)\.(?:layers\.0\.)?conv\.weight")
    banded = FIRST_BAND in source.state
    band = ".layers.0" if banded else ""
    first = FIRST_BAND if banded else FIRST
    width = keys.size(first, 0)
    channels = keys.size("tencoder.0.conv.weight", 1)
    outermost = keys.count(r"tdecoder\.(\d+)\.conv_tr\.weight") - 1
    residual = {1: f"encoder.0{band}", 2: f"decoder.{depth - 1}{band}"}  # by the bit of dconv_mode
    branches = {bit: f"{coder}.dconv.layers" for bit, coder in residual.items()}
    facts: dict[str, Any] = {
        "architecture": "htdemucs" if transformer else "hdemucs",
        "channels": channels,
        "num_stems": keys.size(f"tdecoder.{outermost}.conv_tr.weight", 1) // channels,
        "width": width,
        "depth": depth,
        "kernel_size": keys.size(first, 2),
        "cac": keys.size(first, 1) == 2 * channels,
        "multi_freqs_bands": keys.count(r"encoder\.0\.layers\.(\d+)\.conv\.weight") if banded else 1,
        "waveform": True,
    }
    if banded:
        facts["multi_freqs_depth"] = keys.count(r"encoder\.(\d+)\.layers\.0\.conv\.weight")
    facts |= residual_facts(keys, branches)
    if transformer:
        bottom = "channel_upsampler.weight"
        facts["bottom_channels"] = keys.size(bottom, 0) if bottom in source.state else 0
        facts["t_layers"] = keys.count(r"crosstransformer\.layers\.(\d+)\.linear1\.weight")
    return facts


def residual_facts(keys: Keys, branches: Mapping[int, str]) -> dict[str, int]:
    """The facts of the residual branches; `branches` has where they would be, by the bit of dconv_mode."""
    present = {bit: branch for bit, branch in branches.items() if f"{branch}.0.0.weight" in keys.state}
    facts = {"dconv_mode": sum(present)}
    for branch in present.values():
        facts["dconv_depth"] = keys.count(rf"{re.escape(branch)}\.(\d+)\.0\.weight")
        facts["dconv_comp"] = keys.narrowing(f"{branch}.0.0.weight")
    return facts


def package_config(package: Mapping[str, Any], classes: Mapping[str, str] = CLASSES) -> dict[str, Any] | None:
    """Class and arguments of facebook's package in the layout of MSST's yaml; None for another file."""
    kwargs = package.get("kwargs")
    name = next((name for name, klass in classes.items() if klass == package.get("klass")), None)
    if name is None or not isinstance(kwargs, Mapping):
        return None
    about = ("sources", "audio_channels", "samplerate", "segment")
    training = dict(zip(about, package.get("args") or (), strict=False))
    training |= {key: kwargs[key] for key in about if key in kwargs}
    model = {key: value for key, value in kwargs.items() if key not in about}
    renamed = {"sources": "instruments", "audio_channels": "channels"}
    return {
        "model": name,
        name: model,
        "training": {renamed.get(key, key): value for key, value in training.items()},
    }


def yaml_facts(
    config: Mapping[str, Any], problems: list[str], arguments: Arguments = HYBRID
) -> dict[str, Any]:
    """The facts of MSST's yaml, or of a package in its layout; None for those on which it is silent."""
    training, inference = Section(config, "training", problems), Section(config, "inference", problems)
    name = config.get("model")
    instruments, rate = training.names("instruments"), training.integer("samplerate")
    segment = _seconds(training, problems)
    facts = {
        "architecture": name if isinstance(name, str) else None,
        "sample_rate": rate,
        "channels": training.integer("channels"),
        "stems": instruments,
        "instruments": instruments,
        "chunk": int(segment * (rate or 44100)) if segment else None,
        "scheme": "average" if "inference" in config else None,
        "num_overlap": inference.integer("num_overlap"),
        "normalize": inference.flag("normalize"),
    }
    model = Section(config, str(name), problems)
    return {**facts, **_named(model, arguments, problems)}


def _named(model: Section, arguments: Arguments, problems: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for key, value in model.values.items():
        name = arguments.renamed.get(key, key)
        if name in FLAGS and name in arguments.sizes:
            facts[name] = model.flag(key)
        elif name == "multi_freqs" and name in arguments.sizes:
            facts |= _bands(model, problems)
        elif name in arguments.sizes:
            good = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
            if good:
                facts[name] = int(value) if float(value).is_integer() else value
            elif value not in (None, False):
                problems.append(f"{model.name}.{key} is {short(value)}, not a number from 0 up")
        elif key in arguments.always:
            only = arguments.always[key]
            if value not in only:
                problems.append(f"{model.name}.{key} is {short(value)}, only {only[-1]} is supported")
        elif key not in arguments.unused:
            problems.append(f"{model.name}.{key} is not an option of this network")
    if facts.get("multi_freqs_bands", 1) == 1:
        facts.pop("multi_freqs_depth", None)  # published beside an empty list
    return facts


def _bands(model: Section, problems: list[str]) -> dict[str, Any]:
    """Where bins are cut, and into how many bands."""
    ratios = model.values["multi_freqs"] or []
    good = isinstance(ratios, list | tuple) and all(
        isinstance(ratio, int | float) and not isinstance(ratio, bool) and 0 < ratio < 1 for ratio in ratios
    )
    if not good:
        problems.append(f"{model.name}.multi_freqs is {short(ratios)}, not a list of numbers between 0 and 1")
        return {}
    return {"multi_freqs": tuple(map(float, ratios)) or None, "multi_freqs_bands": len(ratios) + 1}


def _seconds(training: Section, problems: list[str]) -> Fraction | None:
    """The chunk in seconds: a number, or as text a fraction like 39/5."""
    value = training.values.get("segment")
    if value is None:
        return None
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,6}(\.\d{1,9}|/[1-9]\d{0,5})?", text):
        problems.append(f"training.segment is {short(value)}, not a number of seconds")
        return None
    return Fraction(text)
