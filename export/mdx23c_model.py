"""How a TFC-TDF v3 (MDX23C) is used: from its yaml, else the catalogue, and the command line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rofo.errors import CheckpointError
from rofo.export.checkpoint import Checkpoint
from rofo.export.config import Facts, ModelConfig, overlap_fraction, residual_name, with_command_line
from rofo.export.mdx_catalogue import find_mdx23c
from rofo.export.mdx_model import refuse_others, whole_hops
from rofo.export.mdx_settings import tfc_tdf_config, tfc_tdf_contradictions
from rofo.export.mdx_shapes import TfcTdfShapes, tfc_tdf_shapes
from rofo.export.msst_config import Section
from rofo.export.requirements import bad_stems
from rofo.export.yaml_config import load_yaml

_APPLICABLE = {"n_fft", "hop_length", "sample_rate", "chunk", "stems", "scheme", "normalize"}
_MSST_OVERLAPS = 4  # num_overlap of MSST's own yaml files for this network


@dataclass(frozen=True)
class _Told:
    """Facts from one source, None where it is silent; lengths in samples.

    `chunk` is MSST's chunk_size, `frames` the inference.dim_t from which kuielab and UVR reckon theirs,
    `overlaps` num_overlap.
    """

    scheme: str | None = None
    n_fft: int | None = None
    hop_length: int | None = None
    sample_rate: int | None = None
    channels: int | None = None
    chunk: int | None = None
    frames: int | None = None
    overlaps: int | None = None
    stems: tuple[str, ...] | None = None
    instruments: tuple[str, ...] | None = None
    norm: str | None = None
    act: str | None = None
    normalize: bool | None = None

    def over(self, other: "_Told") -> "_Told":
        """These facts, with those of `other` where these are silent."""
        said = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **said)


# What every public yaml says, or its authors' code does where it says nothing.
_USUAL = _Told(scheme="fade", sample_rate=44100, channels=2, norm="InstanceNorm", act="gelu", normalize=False)


def resolve_tfc_tdf(checkpoint: Checkpoint, yaml: Path | None, facts: Facts) -> ModelConfig:
    """Everything there is to know about a TFC-TDF v3, whose state must still be whole.

    The weights decide what they can; for the rest the command line goes before the yaml, and without one the
    catalogue tells how UVR uses a known file. Raises CheckpointError that lists every contradiction, or every
    missing fact with the option that supplies it.
    """
    path = checkpoint.path
    refuse_others(path, facts, _APPLICABLE, "an MDX23C")
    shapes = tfc_tdf_shapes(path, checkpoint.state)
    config = load_yaml(yaml) if yaml else None
    problems = tfc_tdf_contradictions(config, shapes) if config else []
    told, source = (_from_yaml(config, problems), config) if config else _from_catalogue(checkpoint)
    told = _given(facts).over(told).over(_Told(norm=shapes.norm)).over(_USUAL)
    problems += list(bad_stems(told.stems, shapes.num_stems))
    if problems:
        listed = " ".join("; ".join(dict.fromkeys(problems)).split())
        raise CheckpointError(
            f"{yaml or path}: does not fit {path.name}: {listed}; give the yaml published with it"
        )
    return _model(path, shapes, told, facts, source)


def _from_yaml(config: Mapping[str, Any], problems: list[str]) -> _Told:
    audio, model, training, inference = (
        Section(config, name, problems) for name in ("audio", "model", "training", "inference")
    )
    target, instruments = training.text("target_instrument"), training.names("instruments")
    return _Told(
        n_fft=audio.integer("n_fft"),
        hop_length=audio.integer("hop_length"),
        sample_rate=audio.integer("sample_rate"),
        channels=audio.integer("num_channels"),
        chunk=inference.integer("chunk_size") or audio.integer("chunk_size"),
        frames=inference.integer("dim_t") or audio.integer("dim_t"),
        overlaps=inference.integer("num_overlap"),
        stems=(target,) if target else instruments,
        instruments=instruments,
        norm=model.text("norm"),
        act=model.text("act"),
        normalize=inference.flag("normalize"),
    )


def _from_catalogue(checkpoint: Checkpoint) -> tuple[_Told, dict[str, Any]]:
    entry = find_mdx23c(checkpoint.tail_md5)
    if entry is None:
        return _Told(), {}
    told = _Told(
        scheme="rectangular",
        n_fft=entry.n_fft,
        hop_length=entry.hop_length,
        frames=entry.dim_t,
        stems=entry.stems,
        instruments=entry.instruments or entry.stems,
    )
    return told, {"catalogue": {"yaml": entry.yaml}}


def _given(facts: Facts) -> _Told:
    return _Told(
        scheme=facts.scheme,
        n_fft=facts.n_fft,
        hop_length=facts.hop_length,
        sample_rate=facts.sample_rate,
        stems=facts.stems,
        normalize=facts.normalize,
    )


def _model(
    path: Path, shapes: TfcTdfShapes, told: _Told, facts: Facts, source: dict[str, Any]
) -> ModelConfig:
    chunk = _chunk(path, told, facts)
    _raise_missing(path, shapes, told, chunk)
    assert told.n_fft and told.hop_length and told.sample_rate and told.channels  # or it would have raised
    assert told.norm and told.act and told.scheme and told.stems and chunk
    network = tfc_tdf_config(
        shapes,
        sample_rate=told.sample_rate,
        channels=told.channels,
        n_fft=told.n_fft,
        hop_length=told.hop_length,
        norm=told.norm,
        act=told.act,
    )
    return ModelConfig(
        network=network,
        stems=told.stems,
        residual=residual_name(told.stems, told.instruments),
        chunk=chunk,
        scheme=told.scheme,
        overlap=_overlap(told, chunk),
        normalize=bool(told.normalize),
        name=path.stem,
        source=with_command_line(source, facts),
    )


def _chunk(path: Path, told: _Told, facts: Facts) -> int | None:
    """In samples: MSST's chunk_size goes with its scheme, hop (dim_t - 1) with kuielab's and UVR's."""
    if told.hop_length is None or told.sample_rate is None:
        return told.chunk
    if facts.chunk is not None:
        return told.hop_length * whole_hops(path, facts.chunk, told.sample_rate, told.hop_length)
    by_frames = None if told.frames is None else told.hop_length * (told.frames - 1)
    return (told.chunk or by_frames) if told.scheme == "fade" else (by_frames or told.chunk)


def _overlap(told: _Told, chunk: int) -> float | None:
    """num_overlap as a fraction; schemes that know no such number have an overlap of their own."""
    if told.scheme == "fade":
        return overlap_fraction(chunk, min(told.overlaps or _MSST_OVERLAPS, chunk))
    return 1 - 1 / told.overlaps if told.scheme == "rectangular" and told.overlaps else None


def _raise_missing(path: Path, shapes: TfcTdfShapes, told: _Told, chunk: int | None) -> None:
    lacking = [
        text
        for value, text in (
            (told.n_fft, "n_fft in samples (--n-fft)"),
            (told.hop_length, "hop length in samples (--hop-length)"),
            (chunk, "chunk length in seconds (--chunk)"),
            (told.stems, f"names of its {shapes.num_stems} stem(s) in order (--stems)"),
        )
        if value is None
    ]
    if lacking:
        raise CheckpointError(
            f"{path}: not in the catalogue; it lacks the {', the '.join(lacking)}; give these options, "
            "or the yaml published with it (--config)"
        )
