"""BSRNN of magronp/bsrnn: one network per target, or several in one checkpoint."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rofo.export.facts import Facts, merge
from rofo.export.families.bsrnn.engine import Engine
from rofo.export.families.bsrnn.network import Bsrnn as BsrnnNetwork
from rofo.export.families.bsrnn.network import Separator, Sizes
from rofo.export.families.bsrnn.reading import plain_state, prefixes, said_facts, weights_facts
from rofo.export.families.family import Family
from rofo.export.graph.types import Form, refuse_attention
from rofo.export.source import Source

# Those of the original's configuration: chunks of 12 s, of which 1 s is shared.
_DEFAULTS = Facts.said(
    "default",
    {
        "sample_rate": 44100,
        "hop_length": 512,
        "channels": 2,
        "chunk_seconds": 12.0,
        "overlap": 1 / 12,
        "scheme": "crossfade",
        "eps": 1e-7,
    },
)
_SIZES = ("feature_dim", "num_repeat", "n_att_head", "attn_enc_dim", "fac_sep", "fac_mask", "fac_tac",
          "time_layer", "band_layer", "act_tac")  # fmt: skip


class Bsrnn(Family):
    """BSRNN with LSTM, GRU or convolutional layers, with and without TF-GridNet's attention and TAC."""

    name = "bsrnn"
    options = frozenset(("sample_rate", "hop_length", "chunk_seconds", "stems", "scheme"))
    yaml_types = frozenset(("bsrnn",))
    yaml_hints = (frozenset(("attn_enc_dim",)),)
    stages = r"targets\.\d+\.(layers\.\d+\.\w+|maskers\.\d+)"

    def reads(self, source: Source) -> bool:
        """Told by the norms of the band split and the layers along time."""
        return all(
            f"{prefix}separator.0.time_net.proj.weight" in source.state
            for prefix in prefixes(source.state).values() or ["none"]
        )

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """As in Family."""
        return source.hyper_parameters or None

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family. Arguments of parts that the network does not have mean nothing."""
        said = said_facts(config, problems)
        return {name: value for name, value in said.items() if name in weights or name not in _SIZES}

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family."""
        return merge(facts, _DEFAULTS)

    def check(self, facts: Facts) -> list[str]:
        """As in Family."""
        bins = facts["n_fft"] // 2 + 1
        return [
            f"bands of {sum(bands)} bins of {bins} in the weights"
            for bands in facts["bands"]
            if sum(bands) != bins
        ]

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        heads = facts["n_att_head"]
        attention = f", {heads} attention head{'s' * (heads > 1)}" if heads else ""
        layers = f"{facts['time_layer']}/{facts['band_layer']}"
        return f"bsrnn {facts['feature_dim']}x{facts['num_repeat']}, {layers}{attention}"

    def network(self, facts: Facts) -> nn.Module:
        """As in Family."""
        sizes = Sizes(**{name: facts[name] for name in (*_SIZES, "eps") if name in facts})
        if facts.origin("stems") == "weights":
            return Separator(sizes, dict(zip(facts["stems"], facts["bands"], strict=True)))
        return BsrnnNetwork(sizes, facts["bands"][0], facts["num_stems"])

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family."""
        return plain_state(source)

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, BsrnnNetwork | Separator)
        refuse_attention(form)
        return Engine(network, form)
