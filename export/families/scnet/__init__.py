"""SCNet of MSST: plain, masked, and with transformers for its recurrent layers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rofo.export.facts import Facts, merge
from rofo.export.families.family import Family
from rofo.export.families.scnet.engine import Engine
from rofo.export.families.scnet.network import Scnet as ScnetNetwork
from rofo.export.families.scnet.network import Sizes
from rofo.export.families.scnet.reading import (
    FIRST_LSTM,
    FIRST_TRANSFORMER,
    TRANSFORMERS,
    weights_facts,
    yaml_facts,
)
from rofo.export.families.scnet.transformer import TransformerSizes
from rofo.export.graph.types import Form, refuse_attention
from rofo.export.source import Source
from rofo.manifest import Stft

# MSST's, of its classes; num_overlap is what all public yaml files say but that of scnet_tran.
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
        "expand": 1,
    },
)
_ARGUMENTS = ("num_stems", "dims", "band_SR", "band_stride", "band_kernel", "conv_depths", "compress",
              "conv_kernel", "num_dplayer", "expand")  # fmt: skip


class Scnet(Family):
    """SCNet; which of the three is the fact `architecture`, named as MSST's model_type."""

    name = "scnet"
    options = frozenset(
        ("sample_rate", "n_fft", "hop_length", "chunk_seconds", "stems", "scheme", "normalize")
    )
    yaml_types = frozenset(("scnet", "scnet_masked", "scnet_tran"))
    yaml_hints = (frozenset(("band_SR", "band_kernel")),)
    stages = r"encoder\.\d+|separation\.layers\.\d+|decoder\.\d+|mask"

    def reads(self, source: Source) -> bool:
        """Told by its bands and what lies between encoder and decoder."""
        within = FIRST_LSTM in source.state or FIRST_TRANSFORMER in source.state
        return within and "encoder.0.SDlayer.convs.0.weight" in source.state

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family."""
        return weights_facts(source)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, weights, problems)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family. The masked network was trained with Hann's window, the others without one."""
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
        transformers = _transformers(facts)
        if transformers and (transformers.rotary > transformers.dim_head or transformers.dim_head % 2):
            wrong.append(
                f"heads of {transformers.dim_head} features of which {transformers.rotary} are rotated "
                "are not supported"
            )
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

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family. MSST's class with transformers has a convolution that it never calls."""
        state = super().state(source, facts)
        if facts["architecture"] == "scnet_tran":
            state.pop("first_conv.weight", None)
        return state

    def keeps_silence(self, facts: Facts) -> bool:
        """As in Family: biases sound, unless what comes out multiplies the mix."""
        return bool(facts["architecture"] == "scnet_masked")

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, ScnetNetwork)
        if facts["architecture"] != "scnet_tran":
            refuse_attention(form)
        stft = Stft(facts["n_fft"], facts["hop_length"], even_frames=True)
        return Engine(network, stft.frames(facts["chunk"]), form)

    def _sizes(self, facts: Facts) -> Sizes:
        arguments = {name: facts[name] for name in _ARGUMENTS}
        masked = facts["architecture"] == "scnet_masked"
        transformers = _transformers(facts)
        return Sizes(bins=facts["n_fft"] // 2 + 1, masked=masked, transformers=transformers, **arguments)


def _transformers(facts: Facts) -> TransformerSizes | None:
    """What stands where LSTMs do."""
    if facts["architecture"] != "scnet_tran":
        return None
    return TransformerSizes(*(facts[name] for name in TRANSFORMERS))
