"""BS-Roformer and Mel-Band Roformer."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from torch import Tensor, nn

from rofo.export.facts import Facts, contradict, merge
from rofo.export.families.family import Family
from rofo.export.families.roformer.bands import bs_bands, bs_readings, mel_bands, mel_readings
from rofo.export.families.roformer.conformer import Conformer
from rofo.export.families.roformer.engine import RoformerEngine
from rofo.export.families.roformer.engine_siamese import SiameseEngine
from rofo.export.families.roformer.engine_value_residual import ValueResidualEngine
from rofo.export.families.roformer.estimators import variant_estimator
from rofo.export.families.roformer.experimental import SUFFIX, without_residuals
from rofo.export.families.roformer.network import Roformer as RoformerNetwork
from rofo.export.families.roformer.reading import (
    CONFORMERS,
    NAMES,
    SHARED_BIAS,
    VARIANT_FACTS,
    is_mel,
    lightning_config,
    weights_facts,
    yaml_facts,
)
from rofo.export.families.roformer.siamese import SiameseRoformer
from rofo.export.families.roformer.value_residual import ValueResidualRoformer
from rofo.export.families.unsupported import unsupported_network
from rofo.export.graph.types import Form
from rofo.export.source import Source

# MSST's, where its class has one; num_overlap has none, 2 is what nearly every public yaml says.
_DEFAULTS = Facts.said(
    "default",
    {
        "scheme": "fade",
        "num_overlap": 2,
        "zero_dc": True,
        "skip_connection": False,
        "normalize": False,
        "stft_normalized": False,
        "rotary": "exact",
    },
)
# The facts that the network takes by their own names.
_ARGUMENTS = (
    "channels", "num_stems", "dim", "depth", "heads", "dim_head", "time_transformer_depth",
    "freq_transformer_depth", "linear_transformer_depth", "ff_mult", "skip_connection", "zero_dc", "use_pope",
    "rotary",
)  # fmt: skip
# Other ways through the layers, by the facts that tell them.
_LAYERS: dict[str, type[RoformerNetwork]] = {
    "use_value_residual_learning": ValueResidualRoformer,
    "siamese": SiameseRoformer,
}
_ENGINES = {ValueResidualRoformer: ValueResidualEngine, SiameseRoformer: SiameseEngine}
_CONVOLUTION = ("conv_expansion_factor", "conv_kernel_size")


class Roformer(Family):
    """The two Roformers; which of them is the fact `architecture`, named as MSST's model_type."""

    name = "roformer"
    options = frozenset(
        ("sample_rate", "n_fft", "hop_length", "chunk_seconds", "stems", "scheme", "normalize", "zero_dc",
         "skip_connection", "rotary")
    )  # fmt: skip
    yaml_types = frozenset((*NAMES, *(name + SUFFIX for name in NAMES if name not in CONFORMERS)))
    yaml_hints = (frozenset({"time_transformer_depth"}), frozenset({"time_conformer_depth"}))
    stages = r"band_split|layers\.\d+\.\w+\.blocks\.\d+|mask_estimators\.\d+"

    def reads(self, source: Source) -> bool:
        """Told by the band split; variants that compute something else are left to be refused by name."""
        bands = any(key.startswith("band_split.to_features.") for key in source.state)
        return bands and unsupported_network(source.state) is None

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family, with the names of `weights_facts`."""
        return weights_facts(source)

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """As in Family."""
        return lightning_config(source.hyper_parameters)

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family."""
        return yaml_facts(config, weights, problems)

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family: how the widths of the bands are read, and MSST's defaults."""
        if "mel_sample_rate" not in facts and "sample_rate" in facts:
            facts = facts.derived("sample_rate", mel_sample_rate=facts["sample_rate"])
        facts = _with_bands(facts, problems)
        if "sample_rate" not in facts and "mel_sample_rate" in facts:
            facts = facts.derived("mel_sample_rate", sample_rate=facts["mel_sample_rate"])
        if "stereo" in facts:
            facts = facts.derived("stereo", channels=2 if facts["stereo"] else 1)
        unused = "freqs_per_bands" if is_mel(facts) else "mel_sample_rate"
        off = [name for name in VARIANT_FACTS if not facts[name]]
        return merge(facts.without("band_inputs", "stereo", unused, *off), _DEFAULTS)

    def check(self, facts: Facts) -> list[str]:
        """As in Family: stored tables may be too short for the chunk; variants that no class combines."""
        frames, stored = _frames(facts), facts.get("table_frames")
        problems = []
        if stored is not None and frames > stored:
            problems.append(f"{frames} frames in a chunk but {stored} in the position tables (--chunk)")
        problems += [f"{name} are not supported" for name in _never_together(facts)]
        return problems

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        variants = {
            "HyperACE 1": facts.get("hyperace_version") == 1,
            "HyperACE 2": facts.get("hyperace_version") == 2,
            "Siamese": facts.get("siamese"),
            "value residuals": facts.get("use_value_residual_learning"),
            "without residuals, as MSST's experimental class": facts.get("experimental"),
        }
        shown = "".join(f", {name}" for name, there in variants.items() if there)
        return f"{facts['architecture']} {facts['dim']}x{facts['depth']}, {facts['num_bands']} bands{shown}"

    def msst_type(self, facts: Facts) -> str | None:
        """As in Family; of the variants MSST has the conformers and its experimental classes."""
        if facts.get("experimental"):
            return f"{facts['architecture']}{SUFFIX}"
        variant = any(facts.get(name) for name in _LAYERS) or variant_estimator(facts, ()) is not None
        return None if variant else str(facts["architecture"])

    def network(self, facts: Facts) -> RoformerNetwork:
        """As in Family."""
        mel, architecture = is_mel(facts), facts["architecture"]
        if mel:
            bands = mel_bands(facts["mel_sample_rate"], facts["n_fft"], facts["num_bands"])
        else:
            bands = bs_bands(facts["freqs_per_bands"])
        build = next((build for name, build in _LAYERS.items() if facts.get(name)), RoformerNetwork)
        network = build(
            **{name: facts[name] for name in _ARGUMENTS},
            bands=bands,
            mask_layers=facts.get("mask_estimator_depth", 1) + (architecture == "mel_band_roformer"),
            mlp_expansion_factor=facts.get("mlp_expansion_factor", 1),
            norm_each=architecture == "mel_band_roformer",
            norm_last=not mel,
            table_frames=facts.get("table_frames"),
            bias=facts["shared_bias"] != "none",
            stack=partial(Conformer, **{name: facts[name] for name in _CONVOLUTION})
            if architecture in CONFORMERS
            else None,
            estimator=variant_estimator(facts, bands),
        )
        if facts.get("experimental"):
            without_residuals(network.layers)
        return network

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family. What files of Roformer-SW keep once for all layers, every attention is given."""
        state = super().state(source, facts)
        biases = _taken(state, SHARED_BIAS.get(facts["shared_bias"], {}))
        first = int(facts["linear_transformer_depth"] > 0)
        for axis, transformer in (("time", first), ("freq", first + 1)):
            tables = _taken(state, {f"{name}_emb_{axis}": f"rotary_embed.{name}" for name in ("cos", "sin")})
            if axis == "freq":  # some files have rows to spare
                tables = {name: table[: facts["num_bands"]] for name, table in tables.items() if table.ndim}
            for layer in range(facts["depth"]):
                for block in range(facts[f"{axis}_transformer_depth"]):
                    attention = f"layers.{layer}.{transformer}.layers.{block}.0"
                    shared = {**biases, **tables}.items()
                    state |= {f"{attention}.{name}": tensor for name, tensor in shared}
        return state

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, RoformerNetwork)
        build = next(
            (build for plain, build in _ENGINES.items() if isinstance(network, plain)), RoformerEngine
        )
        return build(network, _frames(facts), form)


def _taken(state: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Take the entries with these keys out of a state dict; here they go by the other names."""
    return {name: state.pop(key) for key, name in names.items() if key in state}


def _frames(facts: Facts) -> int:
    return 1 + int(facts["chunk"]) // int(facts["hop_length"])


def _never_together(facts: Facts) -> list[str]:
    """What these facts ask for that no published class has: two parts, by name."""
    mel, experimental = is_mel(facts), facts.get("experimental", False)
    mixed, siamese = facts.get("use_value_residual_learning", False), facts.get("siamese", False)
    found = {
        "mask estimators of HyperACE, FNO or Large-Inst with mel bands": variant_estimator(facts, ()) and mel
    }
    others = {
        "linear attention": facts["linear_transformer_depth"],
        "PoPE": facts["use_pope"],
        "conformers": facts["architecture"] in CONFORMERS,
        "skip connections": siamese and facts["skip_connection"],
        # lucidrains' Mel-Band Roformer mixes values in another way.
        "mel bands": mel and not experimental,
        "value residuals": siamese and mixed,
        "experimental classes": siamese and experimental,
    }
    if mixed or siamese or experimental:
        name = "two streams" if siamese else "value residuals" if mixed else "experimental classes"
        found |= {f"{name} with {other}": there for other, there in others.items()}
    return [name for name, there in found.items() if there]


def _with_bands(facts: Facts, problems: list[str]) -> Facts:
    """Add what all possible readings of the bands' widths agree in, which goes before what others say."""
    inputs, n_fft, rate = facts["band_inputs"], facts.get("n_fft"), facts.get("mel_sample_rate")
    if is_mel(facts):
        found = [asdict(r) for r in mel_readings(inputs, n_fft, rate) or mel_readings(inputs)]
    else:
        found = [asdict(r) for r in bs_readings(inputs, n_fft) or bs_readings(inputs)]
    if not found:
        size = f"n_fft {n_fft}" if n_fft else "a usual n_fft"
        problems.append(
            f"its bands of {inputs[0]} to {inputs[-1]} features fit no {NAMES[facts['architecture']]} of "
            f"{size}; check n_fft and the sample rate (--n-fft, --sample-rate)"
        )
        return facts
    agreed = {name: value for name, value in found[0].items() if all(other[name] == value for other in found)}
    true = Facts.said("weights", agreed)
    problems += contradict(true, facts)
    return merge(true, facts)
