"""Bandit and Bandit v2: speech, music and effects of films, or any other stems."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rofo.export.facts import Facts, merge
from rofo.export.families.bandit.engine import Engine
from rofo.export.families.bandit.network import Bandit as BanditNetwork
from rofo.export.families.bandit.network import Sizes
from rofo.export.families.bandit.reading import SPLIT, plain_state, weights_facts, yaml_facts
from rofo.export.families.family import Family
from rofo.export.graph.types import Form, refuse_attention
from rofo.export.source import Source

# What both public yaml files and the classes' own defaults say.
_DEFAULTS = Facts.said(
    "default",
    {
        "n_fft": 2048,
        "hop_length": 512,
        "channels": 2,
        "stft_window_normalized": True,
        "scheme": "fade",
        "num_overlap": 4,
        "normalize": False,
    },
)
_RATES = {"bandit": 44100, "bandit_v2": 48000}
_PADDINGS = {"bandit": "constant", "bandit_v2": "reflect"}
_ARGUMENTS = ("n_fft", "bands", "stems", "emb_dim", "rnn_dim", "mlp_dim", "n_sqm_modules", "rnn_type",
              "use_freq_weights")  # fmt: skip


class Bandit(Family):
    """Bandit with GRUs or LSTMs; its version is the fact `architecture`, named as MSST's model_type."""

    name = "bandit"
    options = frozenset(("sample_rate", "n_fft", "hop_length", "chunk_seconds", "scheme", "normalize"))
    yaml_types = frozenset(("bandit", "bandit_v2"))
    yaml_hints = (frozenset(("n_sqm_modules",)), frozenset(("band_specs",)))
    stages = r"split|layers\.\d+|maskers\.\d+"

    def reads(self, source: Source) -> bool:
        """Told by the layers of its band split."""
        return any(SPLIT.search(key) for key in source.state)

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, weights, problems)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family. The stems together are the mix, where there are several."""
        version = facts["architecture"]
        own = {"sample_rate": _RATES[version], "stft_padding": _PADDINGS[version]}
        facts = merge(facts, _DEFAULTS, Facts.said("default", own))
        if "instruments" not in facts and len(facts["stems"]) > 1:
            facts = facts.derived("stems", instruments=facts["stems"])
        return facts

    def check(self, facts: Facts) -> list[str]:
        """As in Family."""
        bins, stop = facts["n_fft"] // 2 + 1, sum(facts["bands"][-1])
        return [f"n_fft {facts['n_fft']} has {bins} bins, its bands end at {stop}"] if stop > bins else []

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        layers = f"{facts['rnn_type']} {facts['emb_dim']}x{2 * facts['n_sqm_modules']}"
        return f"{facts['architecture']}, {layers}, {len(facts['bands'])} bands"

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family."""
        return str(facts["architecture"])

    def network(self, facts: Facts) -> BanditNetwork:
        """As in Family."""
        arguments = {name: facts[name] for name in _ARGUMENTS}
        return BanditNetwork(Sizes(parts_first=facts["architecture"] == "bandit", **arguments))

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family."""
        return plain_state(source)

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, BanditNetwork)
        refuse_attention(form)
        return Engine(network, form)
