"""SCNet of MSST, plain and masked."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from rofo.export.facts import Facts, merge
from rofo.export.families.family import Family
from rofo.export.families.scnet.engine import Engine
from rofo.export.families.scnet.network import Scnet as ScnetNetwork
from rofo.export.families.scnet.network import Sizes
from rofo.export.families.scnet.reading import weights_facts, yaml_facts
from rofo.export.graph.types import Form, refuse_attention
from rofo.export.source import Source
from rofo.manifest import Stft

# MSST's, of its class; num_overlap is what all public yaml files say.
_DEFAULTS = Facts.said(
    "default",
    {
        "n_fft": 4096,
        "hop_length": 1024,
        "sample_rate": 44100,
        "stft_normalized": True,
        "stft_even_frames": True,
        "scheme": "fade",
        "num_overlap": 4,
        "normalize": False,
    },
)
_ARGUMENTS = ("num_stems", "dims", "band_SR", "band_stride", "band_kernel", "conv_depths", "compress",
              "conv_kernel", "num_dplayer", "expand")  # fmt: skip


class Scnet(Family):
    """SCNet; whether it is the masked one is the fact `architecture`, named as MSST's model_type."""

    name = "scnet"
    options = frozenset(
        ("sample_rate", "n_fft", "hop_length", "chunk_seconds", "stems", "scheme", "normalize")
    )
    yaml_types = frozenset(("scnet", "scnet_masked"))
    yaml_hints = (frozenset(("band_SR", "band_kernel")),)
    stages = r"encoder\.\d+|separation\.layers\.\d+|decoder\.\d+|mask"

    def reads(self, source: Source) -> bool:
        """Told by its bands and its recurrent layers; SCNet with transformers has the bands only."""
        first = "separation_net.dp_modules.0.lstm_layers.0.weight_hh_l0"
        return first in source.state and "encoder.0.SDlayer.convs.0.weight" in source.state

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, problems)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family. The plain network was trained without a window, the masked one with Hann's."""
        if "band_SR" not in facts:
            problems.append(
                "the shares of its bands (band_SR) are not in the weights; give its yaml (--config)"
            )
        window = "hann" if facts["architecture"] == "scnet_masked" else "rectangular"
        facts = merge(facts, _DEFAULTS).derived("architecture", stft_window=window)
        if "band_stride" not in facts:
            # Every public network lays kernels side by side, but for those of three rows.
            strides = tuple(1 if kernel == 3 else kernel for kernel in facts["band_kernel"])
            facts = merge(facts, Facts.said("default", {"band_stride": strides}))
        return facts

    def check(self, facts: Facts) -> list[str]:
        """As in Family."""
        wrong = []
        for kernel, stride in zip(facts["band_kernel"], facts["band_stride"], strict=True):
            if kernel != stride and (stride != 1 or kernel % 2 == 0):
                wrong.append(f"a kernel of {kernel} rows with a stride of {stride} is not supported")
        if facts["num_dplayer"] % 2:
            wrong.append(f"num_dplayer is {facts['num_dplayer']}; only even ones come back to time")
        if not sum(facts["band_SR"][:2]) < 1 or min(map(min, self._sizes(facts).rows())) < 1:
            wrong.append(f"band_SR {list(facts['band_SR'])} leaves a band without rows")
        return wrong

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        return (
            f"{facts['architecture']} {'-'.join(map(str, facts['dims']))}, {facts['num_dplayer']} dual paths"
        )

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family."""
        return str(facts["architecture"])

    def network(self, facts: Facts) -> ScnetNetwork:
        """As in Family."""
        return ScnetNetwork(self._sizes(facts))

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, ScnetNetwork)
        refuse_attention(form)
        stft = Stft(facts["n_fft"], facts["hop_length"], even_frames=True)
        return Engine(network, stft.frames(facts["chunk"]), form)

    def _sizes(self, facts: Facts) -> Sizes:
        arguments = {name: facts[name] for name in _ARGUMENTS}
        masked = facts["architecture"] == "scnet_masked"
        return Sizes(bins=facts["n_fft"] // 2 + 1, masked=masked, **arguments)
