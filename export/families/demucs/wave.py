"""Demucs of one branch (v1, v2, and the waveform's in v3's bags): a waveform in, waveforms out."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from rofo.export.facts import Facts, complete, merge
from rofo.export.families.demucs.reading import yaml_facts
from rofo.export.families.demucs.wave_engine import arranged
from rofo.export.families.demucs.wave_network import WaveDemucs as WaveNetwork
from rofo.export.families.demucs.wave_network import WaveSizes
from rofo.export.families.demucs.wave_reading import ARGUMENTS, CLASSES, config, is_wave, weights_facts
from rofo.export.families.family import Family
from rofo.export.graph.types import Form, refuse_attention
from rofo.export.source import Source

_FOUR = ("drums", "bass", "other", "vocals")
_USUAL = {"sample_rate": 44100, "kernel_size": 8, "stride": 4, "growth": 2}
# The classes' own; v1 and v2 know no other stems.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "demucs_v1": {"gelu": False, "levelled": False, "resample": False, "chunk_seconds": 10.0},
    "demucs_v2": {"gelu": False, "levelled": False, "resample": True, "chunk_seconds": 40.0},
    "demucs": {"gelu": True, "levelled": True, "resample": True, "norm_starts": 4, "norm_groups": 4,
               "dconv_attn": 4, "dconv_lstm": 4},
}  # fmt: skip
# v1 puts chunks end to end, each with zeros around it.
_SCHEMES = {"demucs_v1": {"scheme": "average", "overlap": 0.0}}


class WaveDemucs(Family):
    """One U-net over samples; which generation is the fact `architecture`.

    Its own scheme gives every chunk, the fact `segment`, as much of the song around it as makes a valid
    length; in others zeros are put around it in the graph.
    """

    name = "demucs_wave"
    options = frozenset(("sample_rate", "chunk_seconds", "stems", "scheme", "normalize"))
    yaml_types = frozenset((*CLASSES, "demucs_v1", "htdemucs"))  # the last is MSST's model_type of any Demucs
    stages = r"(en|de)coder\.\d+|lstm"

    def reads(self, source: Source) -> bool:
        """As in Family."""
        return is_wave(source)

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """As in Family: facebook's packages hold the arguments of their class."""
        return config(source.hyper_parameters)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, problems, ARGUMENTS)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family: the chunk is widened to a valid length where the scheme has context for it."""
        architecture, first = facts["architecture"], facts["generation"] == 1
        defaults = _USUAL | _DEFAULTS[architecture]
        if architecture != "demucs" and facts["num_stems"] == len(_FOUR) and "stems" not in facts:
            defaults |= {"stems": _FOUR, "instruments": _FOUR}
        if "scheme" not in facts:
            defaults |= _SCHEMES.get(architecture, {"scheme": "triangular"})
        facts = complete(merge(facts, Facts.said("default", defaults)))
        if "normalize" not in facts:
            facts = facts.derived("scheme", normalize=first or facts["scheme"] == "triangular")
        if facts["scheme"] != "triangular" or "chunk" not in facts:
            return facts
        segment = facts["chunk"]
        return facts.derived("chunk", segment=segment, chunk=WaveSizes.of(facts).valid_length(segment))

    def check(self, facts: Facts) -> list[str]:
        """As in Family: what a v2 puts out must lie in the middle of what it is given."""
        odd = [name for name in ("stride", "kernel_size") if facts[name] % 2]
        odd += ["context"] if facts["generation"] < 3 and facts["context"] % 2 == 0 else []
        return [f"{name} is {facts[name]}, which is not supported" for name in odd]

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        return f"{facts['architecture']} {facts['width']}x{facts['depth']}"

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family."""
        return "htdemucs" if facts["architecture"] == "demucs" else None

    def network(self, facts: Facts) -> WaveNetwork:
        """As in Family."""
        return WaveNetwork(WaveSizes.of(facts), widened="segment" in facts)

    def keeps_silence(self, facts: Facts) -> bool:
        """As in Family: only what is levelled is multiplied by a deviation of 0."""
        return bool(facts["levelled"])

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, WaveNetwork)
        refuse_attention(form)
        return arranged(network, form)
