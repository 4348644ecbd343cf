"""Hybrid Demucs (v3) and Hybrid Transformer Demucs (v4): a spectrogram and a waveform in, both out."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from rofo.export.facts import Facts, merge
from rofo.export.families.demucs.engine import arranged
from rofo.export.families.demucs.network import Demucs as DemucsNetwork
from rofo.export.families.demucs.reading import (
    CLASSES,
    FIRST,
    FIRST_BAND,
    package_config,
    weights_facts,
    yaml_facts,
)
from rofo.export.families.demucs.sizes import Sizes
from rofo.export.families.family import Family
from rofo.export.graph.types import Form
from rofo.export.source import Source

# The classes' own where the two agree with what was published.
_DEFAULTS = Facts.said(
    "default",
    {
        "sample_rate": 44100, "n_fft": 4096, "growth": 2, "stride": 4, "time_stride": 2, "context": 1,
        "context_enc": 0, "freq_emb": 0.2, "emb_scale": 10, "norm_starts": 4, "norm_groups": 4,
        "dconv_attn": 4, "dconv_lstm": 4, "t_hidden_scale": 4, "t_heads": 8, "t_max_period": 10000,
        "t_weight_pos_embed": 1, "stft_normalized": True, "stft_dropped_frames": 2, "stft_top_bin": False,
    },
)  # fmt: skip
# Of these sizes the other network has none.
_OTHERS = {
    "hdemucs": ("t_hidden_scale", "t_heads", "t_max_period", "t_weight_pos_embed"),
    "htdemucs": ("time_stride", "dconv_attn", "dconv_lstm"),
}


class Demucs(Family):
    """Both networks; which of them is the fact `architecture`, named as in MSST's yaml.

    A v4 has a transformer in its keys. Older ones, without the spectrogram's branch, are refused by name.
    """

    name = "demucs"
    options = frozenset(("sample_rate", "chunk_seconds", "stems", "scheme", "normalize"))
    yaml_types = frozenset(CLASSES)
    stages = r"t?(en|de)coder\.\d+|crosstransformer\.layers(_t)?\.\d+"

    def reads(self, source: Source) -> bool:
        """Told by the two branches side by side."""
        spectral = FIRST in source.state or FIRST_BAND in source.state
        return spectral and "tencoder.0.conv.weight" in source.state

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """As in Family: facebook's packages hold the arguments of their class."""
        return package_config(source.hyper_parameters)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, problems)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family: Demucs' framing, and its own scheme but where MSST's yaml says another.

        Demucs levels the whole song before it cuts it, MSST does not.
        """
        facts = merge(facts, _DEFAULTS).without(*_OTHERS[facts["architecture"]])
        hop = facts["n_fft"] // 4
        facts = facts.derived("n_fft", hop_length=hop, stft_border=hop // 2 * 3)
        facts = merge(facts, Facts.said("default", {"scheme": "triangular"}))
        return merge(facts, Facts.said("default", {"normalize": facts["scheme"] == "triangular"}))

    def check(self, facts: Facts) -> list[str]:
        """As in Family: weights of their own per band are cut at ratios that no key tells."""
        bands = facts["multi_freqs_bands"]
        if bands == 1:
            return []
        if "multi_freqs" not in facts:
            return [f"{bands} bands in the weights, but nothing says multi_freqs, where they are cut"]
        sizes = Sizes.of(facts)
        levels = sizes.levels[: sizes.multi_freqs_depth]
        if any(level.norm for level in levels):
            return [f"multi_freqs_depth is {len(levels)}, but norm_starts is {sizes.norm_starts}"]
        if any(level.merges or not level.spectral for level in levels):
            return [f"multi_freqs_depth is {len(levels)}, more than levels have bins"]
        cuts = (band for level in levels for band in (*level.bands_down, *level.bands_up))
        if any(begin >= end for begin, end in cuts):
            return [f"multi_freqs is {list(sizes.multi_freqs)}, which leaves a band of some level no bins"]
        return []

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        return f"{facts['architecture']} {facts['width']}x{facts['depth']}"

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family."""
        return "htdemucs"

    def network(self, facts: Facts) -> DemucsNetwork:
        """As in Family."""
        return DemucsNetwork(Sizes.of(facts))

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, DemucsNetwork)
        frames = -(-facts["chunk"] // facts["hop_length"])
        return arranged(network, frames, facts["chunk"], form)
