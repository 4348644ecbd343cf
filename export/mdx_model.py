"""How an MDX-Net is used, which its weights cannot say: from the catalogue and the command line."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofo.errors import CheckpointError
from rofo.export.checkpoint import Checkpoint
from rofo.export.config import Facts, ModelConfig, Network, residual_name, with_command_line
from rofo.export.mdx_catalogue import MdxNetEntry, find_mdx_net
from rofo.export.mdx_config import UVR_ZERO_BINS, MdxOnnxConfig
from rofo.export.mdx_onnx import MdxGraph
from rofo.export.mdx_settings import conv_tdf_config, conv_tdf_contradictions, conv_tdf_norm
from rofo.export.mdx_shapes import conv_tdf_shapes
from rofo.export.requirements import LONGEST_CHUNK

_HOP_LENGTH = 1024  # of every public MDX-Net
_SAMPLE_RATE = 44100

# kuielab's own way of running its networks, which MVSEP's script keeps: no gain, and no bin is silenced.
_AS_TRAINED: tuple[str, ...] = ("trim", "outer")

_APPLICABLE = {"n_fft", "sample_rate", "chunk", "stems", "compensate", "scheme"}
_PAIRS = {"vocals": "instrumental", "instrumental": "vocals"}


@dataclass(frozen=True)
class Known:
    """What a file itself says of its use, None where it is silent; `found` describes it in words."""

    path: Path
    found: str
    entry: MdxNetEntry | None
    n_fft: int | None = None
    frames: int | None = None
    stem: str | None = None
    hop_length: int = _HOP_LENGTH


@dataclass(frozen=True)
class Use:
    """How an MDX-Net is used, as in ConvTdfConfig; `frames` are those of a chunk."""

    n_fft: int
    frames: int
    hop_length: int
    sample_rate: int
    stem: str
    scheme: str
    zero_bins: int
    compensate: float


def resolve_mdx_onnx(graph: MdxGraph, yaml: Path | None, facts: Facts) -> ModelConfig:
    """Everything there is to know about a given MDX-Net file.

    Raises CheckpointError, naming what is missing with the option that supplies it, or what contradicts.
    """
    frames = "any number of" if graph.dim_t is None else graph.dim_t
    found = f"an MDX-Net of {graph.dim_f} bins and {frames} frames (tail MD5 {graph.tail_md5})"
    known = Known(graph.path, found, find_mdx_net(graph.tail_md5), frames=graph.dim_t)
    use = _resolve_use(known, yaml, facts)
    network = MdxOnnxConfig(
        sample_rate=use.sample_rate,
        n_fft=use.n_fft,
        hop_length=use.hop_length,
        dim_f=graph.dim_f,
        zero_bins=use.zero_bins,
        compensate=use.compensate,
    )
    return _model(known, network, use, facts, {})


def resolve_conv_tdf(checkpoint: Checkpoint, yaml: Path | None, facts: Facts) -> ModelConfig:
    """Everything there is to know about an MDX-Net's checkpoint, whose state must still be whole.

    Lightning's hyper-parameters supply what keys and shapes cannot say. Raises CheckpointError as
    `resolve_mdx_onnx` does.
    """
    shapes, told = conv_tdf_shapes(checkpoint.path, checkpoint.state), checkpoint.hyper_parameters
    entry = find_mdx_net(checkpoint.tail_md5)
    problems = conv_tdf_contradictions(told, shapes)
    dim_f = shapes.dim_f or _number(told, "dim_f") or (entry.dim_f if entry else None)
    if dim_f is None:
        problems.append("no linear layer, padding or hyper-parameter tells the number of its bins")
    if problems or dim_f is None:
        raise CheckpointError(f"{checkpoint.path}: {'; '.join(problems)}; give the published checkpoint")
    known = Known(
        checkpoint.path,
        f"an MDX-Net of {dim_f} bins (tail MD5 {checkpoint.tail_md5})",
        entry,
        n_fft=shapes.n_fft or _number(told, "n_fft"),
        frames=shapes.dim_t or _number(told, "dim_t"),
        stem=told["target_name"] if isinstance(told.get("target_name"), str) else None,
        hop_length=_number(told, "hop_length") or _HOP_LENGTH,
    )
    use = _resolve_use(known, yaml, facts)
    network = conv_tdf_config(
        shapes,
        sample_rate=use.sample_rate,
        n_fft=use.n_fft,
        hop_length=use.hop_length,
        dim_f=dim_f,
        norm=conv_tdf_norm(told, shapes),
        zero_bins=use.zero_bins,
        compensate=use.compensate,
    )
    return _model(known, network, use, facts, {"hyper_parameters": told} if told else {})


def refuse_others(path: Path, facts: Facts, applicable: set[str], what: str) -> None:
    """Raise CheckpointError for given options that mean nothing for this family."""
    given = {name for name, value in vars(facts).items() if value is not None}
    if given - applicable:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given - applicable))
        raise CheckpointError(f"{path}: {options} means nothing for {what}; leave it out")


def whole_hops(path: Path, seconds: float, sample_rate: int, hop_length: int) -> int:
    """The hops in a chunk of `seconds`. Raises CheckpointError for a length that is none."""
    if not (math.isfinite(seconds) and 0 < seconds <= LONGEST_CHUNK):
        raise CheckpointError(f"{path}: a chunk of {seconds} s; give --chunk between 0 and {LONGEST_CHUNK}")
    return round(seconds * sample_rate / hop_length)


def _resolve_use(known: Known, yaml: Path | None, facts: Facts) -> Use:
    if yaml is not None:
        raise CheckpointError(f"{known.path}: an MDX-Net has no yaml; leave --config {yaml} out")
    refuse_others(known.path, facts, _APPLICABLE, "an MDX-Net")
    entry, rate = known.entry, facts.sample_rate or _SAMPLE_RATE
    n_fft = facts.n_fft or known.n_fft or (entry.n_fft if entry else None)
    stem = _stem(known, facts) or known.stem or (entry.stem if entry else None)
    frames = _frames(known, facts, rate) or known.frames or (entry.dim_t if entry else None)
    if n_fft is None or stem is None or frames is None:
        raise _lacking(known, n_fft=n_fft, stem=stem, frames=frames)
    scheme = facts.scheme or "hann"
    as_trained = scheme in _AS_TRAINED
    gain = entry.compensate if entry and not as_trained else 1.0
    return Use(
        n_fft=n_fft,
        frames=frames,
        hop_length=known.hop_length,
        sample_rate=rate,
        stem=stem,
        scheme=scheme,
        zero_bins=0 if as_trained else UVR_ZERO_BINS,
        compensate=_gain(known, gain if facts.compensate is None else facts.compensate),
    )


def _lacking(known: Known, **values: object) -> CheckpointError:
    texts = {
        "n_fft": "n_fft in samples (--n-fft)",
        "stem": "name of its stem (--stem)",
        "frames": "chunk length in seconds (--chunk)",
    }
    lacking = ", the ".join(text for name, text in texts.items() if values[name] is None)
    return CheckpointError(
        f"{known.path}: {known.found}, not in the catalogue; it lacks the {lacking}; give these options, "
        "and --compensate if UVR has a gain for it"
    )


def _stem(known: Known, facts: Facts) -> str | None:
    if facts.stems is None:
        return None
    if len(facts.stems) != 1:
        raise CheckpointError(
            f"{known.path}: {known.found} has one stem, not {', '.join(facts.stems)}; give one --stem"
        )
    return facts.stems[0]


def _frames(known: Known, facts: Facts, rate: int) -> int | None:
    """The frames of the chunk asked for; a network is made for whole hops."""
    if facts.chunk is None:
        return None
    return 1 + whole_hops(known.path, facts.chunk, rate, known.hop_length)


def _gain(known: Known, gain: float) -> float:
    if not (math.isfinite(gain) and gain != 0):
        raise CheckpointError(f"{known.path}: a gain of {gain} leaves no sound; give another --compensate")
    return gain


def _model(known: Known, network: Network, use: Use, facts: Facts, source: dict[str, Any]) -> ModelConfig:
    """The model; its chunk's first and last frame are centred on the chunk's ends."""
    other = _PAIRS.get(use.stem.lower())
    if known.entry is not None:
        source = {"catalogue": dict(vars(known.entry)), **source}
    return ModelConfig(
        network=network,
        stems=(use.stem,),
        residual=residual_name((use.stem,), (use.stem, other) if other else None),
        chunk=use.hop_length * (use.frames - 1),
        scheme=use.scheme,
        overlap=None,
        normalize=False,
        name=known.path.stem,
        source=with_command_line(source, facts),
    )


def _number(told: Mapping[str, Any], key: str) -> int | None:
    value = told.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
