"""TFC-TDF v3 (MDX23C) as a family: its facts, its network, its engine."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rofo.export.facts import Facts, contradict, merge
from rofo.export.families.family import Family
from rofo.export.families.tfc_tdf.engine import tfc_tdf_engine
from rofo.export.families.tfc_tdf.network import TfcTdfNet, elu_alpha
from rofo.export.families.u_nets import (
    NO_STATISTICS,
    group_problems,
    norm_groups,
    size_problems,
    stored_norm,
    whole_hops,
    with_counters,
)
from rofo.export.graph.types import Form
from rofo.export.source import Source
from rofo.export.source.keys import Keys
from rofo.export.source.msst import Section, use_facts
from rofo.text import short

# What every public yaml says, or its authors' code does where it says nothing.
_USUAL = {
    "scheme": "fade", "sample_rate": 44100, "channels": 2, "norm": "InstanceNorm", "act": "gelu",
    "normalize": False,
}  # fmt: skip
_MSST_OVERLAPS = 4  # num_overlap of MSST's own yaml files for this network

# Options of a yaml's model section; "name" is the file of weights in kuielab's.
_SIZES = ("num_channels", "growth", "num_scales", "num_blocks_per_scale", "bottleneck_factor", "num_subbands")
_OPTIONS = {*_SIZES, "scale", "norm", "act", "name"}

_NETWORK = (*_SIZES, "channels", "num_stems", "dim_f", "scale", "norm", "act")


class TfcTdf(Family):
    """kuielab's TFC-TDF v3. Biases stand only before what is multiplied, so silence stays silent."""

    name = "tfc_tdf"
    options = frozenset(
        {"n_fft", "hop_length", "sample_rate", "chunk_seconds", "stems", "scheme", "normalize"}
    )
    yaml_types = frozenset({"mdx23c"})
    yaml_hints = (frozenset({"num_subbands", "num_scales"}),)
    stages = r"first_conv|(en|de)coder_blocks\.\d+\.tfc_tdf\.blocks\.\d+|bottleneck_block\.blocks\.\d+"

    def reads(self, source: Source) -> bool:
        """Whether a state dict is of this family."""
        return any(re.match(r"encoder_blocks\.\d+\.tfc_tdf\.blocks\.", key) for key in source.state)

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family. `packed` are 2 x channels x sub-bands, `sub_bins` the bins of a sub-band."""
        keys = Keys(source.path, source.state, "MDX23C")
        block, down = "encoder_blocks.0.tfc_tdf.blocks", "encoder_blocks.0.downscale.conv.2.weight"
        packed, width = keys.size("first_conv.weight", 1), keys.size("first_conv.weight", 0)
        return {
            "architecture": "tfc_tdf_v3",
            "packed": packed,
            "sub_bins": keys.size(f"{block}.0.tdf.2.weight", 1),
            "num_stems": keys.ratio("final_conv.2.weight", packed),
            "num_channels": width,
            "growth": keys.size(down, 0) - width,
            "num_scales": keys.count(r"encoder_blocks\.(\d+)\."),
            "num_blocks_per_scale": keys.count(rf"{re.escape(block)}\.(\d+)\."),
            "bottleneck_factor": keys.narrowing(f"{block}.0.tdf.2.weight"),
            "scale": (keys.size(down, 2), keys.size(down, 3)),
            "norm": stored_norm(source.state),
        }

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        audio, model, inference = (
            Section(config, name, problems) for name in ("audio", "model", "inference")
        )
        scale = model.values.get("scale")
        unknown = sorted(
            str(key) for key, value in model.values.items() if key not in _OPTIONS and value is not None
        )
        if unknown:
            problems.append(f"unknown model options {', '.join(unknown)}")
        return {
            **use_facts(config, problems),
            **{name: model.integer(name) for name in _SIZES},
            "n_fft": audio.integer("n_fft"),
            "hop_length": audio.integer("hop_length"),
            "dim_f": audio.integer("dim_f"),
            "dim_t": inference.integer("dim_t") or audio.integer("dim_t"),
            "scale": tuple(scale) if isinstance(scale, list) else scale,
            "norm": _norm(model.text("norm"), weights, problems),
            "act": _act(model.text("act"), problems),
        }

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family. MSST's chunk_size goes with its scheme, hop (dim_t - 1) with kuielab's and UVR's."""
        facts = _with_bins(whole_hops(merge(facts, Facts.said("default", _USUAL))), problems)
        if facts["scheme"] == "fade":
            return merge(facts, Facts.said("default", {"num_overlap": _MSST_OVERLAPS}))
        if facts["scheme"] == "rectangular" and "num_overlap" in facts:
            facts = facts.derived("num_overlap", overlap=1 - 1 / facts["num_overlap"])
        return facts.without("chunk") if "dim_t" in facts else facts

    def check(self, facts: Facts) -> list[str]:
        """As in Family."""
        widths = [facts["num_channels"] + i * facts["growth"] for i in range(facts["num_scales"] + 1)]
        if min(widths) < 1:
            return [f"a growth of {facts['growth']} leaves no channels"]
        rows = facts["dim_f"] // facts["num_subbands"]
        sizes = size_problems(facts, rows=rows, scale=facts["scale"], num_scales=facts["num_scales"])
        return sizes + group_problems(facts["norm"], widths)

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        return f"TFC-TDF v3 of {facts['num_scales']} scales from {facts['num_channels']} channels on"

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family."""
        return "mdx23c"

    def network(self, facts: Facts) -> nn.Module:
        """As in Family."""
        return TfcTdfNet(**{name: facts[name] for name in _NETWORK})

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family."""
        return with_counters(super().state(source, facts))

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, TfcTdfNet)
        return tfc_tdf_engine(network, form)


def _with_bins(facts: Facts, problems: list[str]) -> Facts:
    """The channels of audio tell how many sub-bands there are, and these how many bins."""
    channels, packed = facts["channels"], facts["packed"]
    if channels not in (1, 2) or packed % (2 * channels):
        problems.append(f"num_channels is {short(channels)} but the weights have {packed} inputs")
        return facts
    subbands = packed // (2 * channels)
    derived = Facts.said("weights", {"num_subbands": subbands, "dim_f": subbands * facts["sub_bins"]})
    problems += contradict(derived, facts)
    return merge(facts, derived).without("packed", "sub_bins")


def _norm(norm: str | None, weights: Facts, problems: list[str]) -> str | None:
    if norm is None:
        return None
    if norm not in ("InstanceNorm", "BatchNorm") and norm_groups(norm) is None:
        problems.append(
            f"norm is {short(norm)}, known are InstanceNorm, BatchNorm and GroupNormN with a number N"
        )
        return None
    if norm == "BatchNorm" and "norm" not in weights:
        problems.append(NO_STATISTICS)
    return norm


def _act(act: str | None, problems: list[str]) -> str | None:
    if act in (None, "gelu", "relu") or elu_alpha(str(act)) is not None:
        return act
    problems.append(f"act is {short(act)}, known are gelu, relu and eluA with a number A")
    return None
