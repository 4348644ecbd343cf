"""A checkpoint, its yaml, the catalogue and the command line -> one typed description of the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from rofo.errors import CheckpointError
from rofo.export.band_layout import Layout
from rofo.export.catalogue import find_entry
from rofo.export.checkpoint import Checkpoint
from rofo.export.families import other_architecture
from rofo.export.msst_config import check_layout, msst_settings
from rofo.export.networks.bands import Bands
from rofo.export.requirements import FAMILY_NAMES, FILE_NAME, complete, impossible, missing, read_layouts
from rofo.export.settings import Settings
from rofo.export.shapes import Family, Positions, Shapes, SharedBias, infer_shapes
from rofo.export.yaml_config import load_yaml

RotaryPrecision = Literal["exact", "amp-0.3.5"]
T = TypeVar("T")


@dataclass(frozen=True)
class RoformerConfig:
    """Hyper-parameters of a BS-Roformer or Mel-Band Roformer.

    `bands` are (start bin, count): consecutive for BS, overlapping for Mel. Depths are per layer, in
    attention blocks; `linear_depth` is 0 without linear attention. `mask_layers` is the number of linear
    layers in a mask MLP, `mlp_expansion` its hidden width / dim, `ff_mult` the feed-forward's. `positions`
    is "tables" where the weights bring their own cosines and sines; `shared_bias` tells the serialisations
    of Roformer-SW apart; `rotary_precision` "amp-0.3.5" rounds the angles to half precision, as
    rotary-embedding-torch 0.3.5 does under autocast. `n_fft`, `hop_length` are in samples.
    """

    family: Family
    dim: int
    depth: int
    heads: int
    dim_head: int
    channels: int
    num_stems: int
    time_depth: int
    freq_depth: int
    linear_depth: int
    bands: Bands
    mask_layers: int
    mlp_expansion: int
    ff_mult: int
    skip_connection: bool
    zero_dc: bool
    positions: Positions
    shared_bias: SharedBias
    rotary_precision: RotaryPrecision
    n_fft: int
    hop_length: int
    stft_normalized: bool
    sample_rate: int


class Network(Protocol):
    """What every family's hyper-parameters say. `n_fft` and `hop_length` are in samples."""

    @property
    def family(self) -> str: ...  # noqa: D102
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def sample_rate(self) -> int: ...  # noqa: D102
    @property
    def n_fft(self) -> int: ...  # noqa: D102
    @property
    def hop_length(self) -> int: ...  # noqa: D102
    @property
    def stft_normalized(self) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class ModelConfig:
    """A network and how it is used.

    `chunk` is in samples; chunks are cut and joined by `scheme` with `overlap`, see OverlapAdd. `residual`
    names the mix less all `stems`, None where these cover the song. `normalize` asks for the song's mean and
    deviation to be taken out first. `source` is JSON data: the yaml (or what stood in for it), and under
    "command_line" what was given there.
    """

    network: Network
    stems: tuple[str, ...]
    residual: str | None
    chunk: int
    scheme: str
    overlap: float | None
    normalize: bool
    name: str
    source: dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What the command line supplies; None where it is silent. `chunk` is in seconds.

    `compensate` is the gain that UVR applies to the stems of an MDX-Net, `scheme` how chunks are joined.
    """

    hop_length: int | None = None
    n_fft: int | None = None
    sample_rate: int | None = None
    chunk: float | None = None
    stems: tuple[str, ...] | None = None
    compensate: float | None = None
    scheme: str | None = None
    zero_dc: bool | None = None
    skip_connection: bool | None = None
    normalize: bool | None = None
    rotary: RotaryPrecision | None = None


def resolve_config(
    checkpoint: Checkpoint, *, yaml: Path | None = None, facts: Facts | None = None
) -> ModelConfig:
    """Everything there is to know about a model, from its keys first and then from who knows the rest.

    The weights decide what they can. For the rest the command line goes before the yaml (or Lightning's
    hyper-parameters), and this before the catalogue. Raises one CheckpointError that lists every
    contradiction, or every missing fact with the option that supplies it. The state must still be whole;
    it is only looked at.
    """
    facts = facts or Facts()
    problems: list[str] = []
    shapes = infer_shapes(checkpoint.path, checkpoint.state)
    config = _config(checkpoint, yaml, shapes)
    if config is None:
        told, source = _from_catalogue(checkpoint, shapes)
    else:
        told, source = msst_settings(config, shapes, problems), config
    settings = _given(facts).over(told)
    layouts = read_layouts(checkpoint.path, shapes, settings, problems)
    if config is not None:
        check_layout(config, layouts[0], problems)
    settings = complete(settings, layouts)
    problems += impossible(settings, shapes, layouts)
    _raise_all(checkpoint.path, yaml, problems, missing(settings, shapes))
    network = _network(shapes, settings, layouts[0], facts.rotary or "exact")
    return _model(
        checkpoint.path, network, settings, facts.scheme or "fade", with_command_line(source, facts)
    )


def overlap_fraction(chunk: int, overlaps: int) -> float:
    """The overlap whose hop, round(chunk x (1 - overlap)), is exactly MSST's chunk // num_overlap samples."""
    return 1 - (chunk // overlaps) / chunk


def residual_name(stems: tuple[str, ...], instruments: tuple[str, ...] | None) -> str | None:
    """What to call the mix less all stems; None where the stems are all instruments and more than one."""
    taken = {stem.lower() for stem in stems}
    if taken == {"vocals"}:
        return "instrumental"
    left = [name for name in instruments or () if name.lower() not in taken]
    if len(left) == 1 and FILE_NAME.fullmatch(left[0]):
        return left[0]
    if instruments and not left and len(stems) > 1:
        return None
    return "residual" if "residual" not in taken else "remainder"


def _config(checkpoint: Checkpoint, yaml: Path | None, shapes: Shapes) -> dict[str, Any] | None:
    """The yaml, else what a Lightning file says in its place; refuses that of another architecture."""
    config = load_yaml(yaml) if yaml else _lightning_config(checkpoint.hyper_parameters)
    other = other_architecture(config) if config else None
    if other is not None:
        raise CheckpointError(
            f"{yaml or checkpoint.path}: describes {other}, but {checkpoint.path.name} holds a "
            f"{FAMILY_NAMES[shapes.family]}; use the yaml published with this checkpoint"
        )
    return config


def _lightning_config(hyper_parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Hyper-parameters in the layout of a yaml, None where they do not describe a Roformer.

    X-LANCE keeps the network's arguments under model.params and the rate under data; its code knows no
    zero_dc.
    """
    model = hyper_parameters.get("model")
    if not isinstance(model, Mapping):
        return None
    if isinstance(model.get("params"), Mapping):
        data = hyper_parameters.get("data")
        rate = data.get("sample_rate") if isinstance(data, Mapping) else None
        return {"model": {"zero_dc": False, **model["params"]}, "audio": {"sample_rate": rate}}
    return dict(hyper_parameters) if "dim" in model and "depth" in model else None


def _from_catalogue(checkpoint: Checkpoint, shapes: Shapes) -> tuple[Settings, dict[str, Any]]:
    entry = find_entry(checkpoint.path, checkpoint.sha256, checkpoint.tail_md5, shapes)
    if entry is None:
        return Settings(), {}
    said = {name: value for name, value in vars(entry).items() if value is not None}
    return entry.settings(), {"catalogue": json.loads(json.dumps(said))}


def _given(facts: Facts) -> Settings:
    return Settings(
        sample_rate=facts.sample_rate,
        hop_length=facts.hop_length,
        chunk_seconds=facts.chunk,
        stems=facts.stems,
        zero_dc=facts.zero_dc,
        skip_connection=facts.skip_connection,
        normalize=facts.normalize,
    )


def with_command_line(source: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """A model's `source` with what the command line gave."""
    given = {name: value for name, value in vars(facts).items() if value is not None}
    if "stems" in given:
        given["stems"] = list(given["stems"])
    return {**source, "command_line": given} if given else source


def _raise_all(path: Path, yaml: Path | None, problems: list[str], lacking: list[str]) -> None:
    found = [*dict.fromkeys(problems), *([f"lacks the {', the '.join(lacking)}"] if lacking else [])]
    if not found:
        return
    if yaml is None:
        what = "" if problems else "not in the catalogue; "
        cure = "give these options, or the yaml published with it (--config)"
    else:
        what = f"does not fit {path.name}: " if problems else ""
        cure = f"give the yaml published with {path.name}, or these options"
    listed = " ".join("; ".join(found).split())  # names from a yaml may hold line breaks
    raise CheckpointError(f"{yaml or path}: {what}{listed}; {cure}")


def _network(shapes: Shapes, settings: Settings, layout: Layout, rotary: RotaryPrecision) -> RoformerConfig:
    left_out = ("band_inputs", "table_frames")
    return RoformerConfig(
        **{name: value for name, value in vars(shapes).items() if name not in left_out},
        channels=layout.channels,
        bands=layout.bands,
        n_fft=layout.n_fft,
        skip_connection=_known(settings.skip_connection),
        zero_dc=_known(settings.zero_dc),
        rotary_precision=rotary,
        hop_length=_known(settings.hop_length),
        stft_normalized=_known(settings.stft_normalized),
        sample_rate=_known(settings.sample_rate),
    )


def _model(
    path: Path, network: RoformerConfig, settings: Settings, scheme: str, source: dict[str, Any]
) -> ModelConfig:
    chunk, stems = _known(settings.chunk), _known(settings.stems)
    return ModelConfig(
        network=network,
        stems=stems,
        residual=residual_name(stems, settings.instruments),
        chunk=chunk,
        scheme=scheme,
        # Another scheme than that of the yaml has an overlap of its own.
        overlap=overlap_fraction(chunk, _known(settings.overlaps)) if scheme == "fade" else None,
        normalize=_known(settings.normalize),
        name=path.stem,
        source=source,
    )


def _known(value: T | None) -> T:
    """A setting that the checks before have made sure of."""
    assert value is not None
    return value
