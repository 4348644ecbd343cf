"""MDX-Net (kuielab, UVR, Kim): checkpoints in two layouts of keys, and published .onnx files."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rofo.engines.contract import Tensors
from rofo.export.facts import Facts, merge
from rofo.export.families.family import Family
from rofo.export.families.mdx_net.engine import conv_tdf_engine
from rofo.export.families.mdx_net.network import ConvTdfNet
from rofo.export.families.mdx_net.onnx import read_graph, run_original
from rofo.export.families.u_nets import (
    NO_STATISTICS,
    frames_of,
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
from rofo.export.source.msst import Section

# kuielab's own way of running its networks, which MVSEP's script keeps: no gain, and no bin is silenced.
_AS_TRAINED = ("trim", "outer")
_UVR_ZERO_BINS = 3

# Of every public MDX-Net.
_USUAL = {"scheme": "hann", "sample_rate": 44100, "hop_length": 1024, "normalize": False}
_PAIRS = {"vocals": "instrumental", "instrumental": "vocals"}

_NO_LAYERS = "none"  # the `bn` of networks without linear layers, which in kuielab's code is None

# Keys of mdx-net-submission -> those of all later code.
_OLD_KEYS = {
    r"^ds_dense\.": "encoding_blocks.",
    r"^mid_dense\.": "bottleneck_block.",
    r"^us_dense\.": "decoding_blocks.",
    r"^(\w+_blocks?(\.\d+)?)\.H\.": r"\1.tfc.H.",
}
_OF_THE_STFT = ("window", "freq_pad")


class MdxNet(Family):
    """kuielab's ConvTDFNet. Its biases sound, so silence does not stay silent."""

    name = "mdx_net"
    options = frozenset({"n_fft", "sample_rate", "chunk_seconds", "stems", "compensate", "scheme"})
    stages = r"first_conv|(en|de)coding_blocks\.\d+|bottleneck_block|ds\.\d+|final_conv"

    def reads(self, source: Source) -> bool:
        """Whether a state dict is of this family; of .onnx files, only those of MDX-Nets are read at all."""
        pattern = r"(encoding_blocks\.\d+\.tfc|ds_dense\.\d+)\.H\."
        return source.graph is not None or any(re.match(pattern, key) for key in source.state)

    def weights(self, source: Source) -> dict[str, Any]:
        """As in Family. A graph made for one number of frames has `fixed_frames`."""
        if source.graph is None:
            return _facts(Keys(source.path, _renamed(source.state), "MDX-Net"))
        graph = read_graph(source.path, source.graph)
        facts = _facts(Keys(source.path, graph.state, "MDX-Net"))
        norm = f"GroupNorm{graph.groups}" if graph.groups else facts["norm"]
        return {
            **facts,
            "dim_f": graph.dim_f,
            "dim_t": graph.dim_t,
            "fixed_frames": graph.dim_t,
            "norm": norm,
        }

    def hyper_parameters(self, source: Source) -> Mapping[str, Any] | None:
        """As in Family: the arguments of ConvTDFNet that Lightning keeps."""
        return {"hyper_parameters": source.hyper_parameters} if source.hyper_parameters else None

    def yaml(self, config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
        """As in Family. UVR's code pairs the norm with the optimizer: adamw goes with GroupNorm(2)."""
        if "hyper_parameters" not in config:
            problems.append("an MDX-Net has no yaml, leave --config out")
            return {}
        told = Section(config, "hyper_parameters", problems)
        target, blocks = told.text("target_name"), told.integer("num_blocks")
        names = ("dim_c", "dim_f", "dim_t", "n_fft", "hop_length", "g", "k", "l")
        return {
            **{name: told.integer(name) for name in names},
            "num_blocks": blocks // 2 * 2 + 1 if blocks else None,
            "bn": _NO_LAYERS if told.values.get("bn", 0) is None else told.values.get("bn"),
            "bias": told.flag("bias"),
            "norm": "GroupNorm2" if told.values.get("optimizer") == "adamw" else None,
            "stems": (target,) if target else None,
        }

    def complete(self, facts: Facts, problems: list[str]) -> Facts:
        """As in Family: how UVR runs these networks, unless a scheme of kuielab's is chosen."""
        facts = whole_hops(merge(facts, Facts.said("default", _USUAL)))
        as_trained = facts["scheme"] in _AS_TRAINED
        if as_trained and "compensate" in facts:
            if facts.origin("compensate") == "command line":
                problems.append(f"--compensate is UVR's gain, which --scheme {facts['scheme']} leaves out")
            facts = facts.without("compensate")
        if "norm" not in facts:
            problems.append(NO_STATISTICS)
        if "dim_f" not in facts:
            problems.append("no linear layer, padding or hyper-parameter tells the number of its bins")
        gain = facts.get("compensate", 1.0)
        if not (math.isfinite(gain) and gain != 0):
            problems.append(f"a gain of {gain} leaves no sound; give another --compensate")
        stems = facts.get("stems", ())
        if len(stems) == 1 and stems[0].lower() in _PAIRS and "instruments" not in facts:
            facts = facts.derived("stems", instruments=(stems[0], _PAIRS[stems[0].lower()]))
        usual = {"compensate": 1.0, "zero_bins": 0 if as_trained else _UVR_ZERO_BINS}
        return merge(facts, Facts.said("default", usual))

    def check(self, facts: Facts) -> list[str]:
        """As in Family."""
        scales, frames, fixed = _scales(facts), frames_of(facts), facts.get("fixed_frames")
        if fixed not in (None, frames):
            return [f"made for {fixed} frames, not {frames}; leave --chunk out"]
        widths = [facts["g"] * (1 + i) for i in range(scales + 1)]
        sizes = size_problems(facts, rows=facts["dim_f"], scale=(2, 2), num_scales=scales)
        return sizes + group_problems(facts["norm"], widths)

    def keeps_silence(self, facts: Facts) -> bool:
        """As in Family."""
        return False

    def summary(self, facts: Facts) -> str:
        """As in Family."""
        return f"MDX-Net of {_scales(facts)} scales, {facts['g']} channels each, and {facts['dim_f']} bins"

    def network(self, facts: Facts) -> nn.Module:
        """As in Family."""
        names = ("channels", "num_stems", "dim_f", "g", "k", "l", "zero_bins", "compensate")
        return ConvTdfNet(
            **{name: facts[name] for name in names},
            n=_scales(facts),
            bn=None if facts["bn"] == _NO_LAYERS else facts["bn"],
            bias=facts.get("bias", False),
            groups=norm_groups(facts["norm"]),
        )

    def state(self, source: Source, facts: Facts) -> dict[str, Tensor]:
        """As in Family, under the newer names of keys, less the constants of the STFT."""
        if source.graph is not None:
            return with_counters(read_graph(source.path, source.graph).state)
        state = _renamed(super().state(source, facts))
        return with_counters({key: state[key] for key in state if key not in _OF_THE_STFT})

    def original(self, source: Source, facts: Facts, network: nn.Module) -> Callable[[Tensors], Tensors]:
        """As in Family: a given .onnx file is what its engine is compared with."""
        if source.graph is None:
            return super().original(source, facts, network)
        path, graph = source.path, source.graph
        dim_f, zero_bins, gain = (facts[name] for name in ("dim_f", "zero_bins", "compensate"))

        def run(inputs: Tensors) -> Tensors:
            stems = run_original(path, graph, inputs["mix"], dim_f=dim_f, zero_bins=zero_bins, gain=gain)
            return {"stems": stems}

        return run

    def engine(self, network: nn.Module, facts: Facts, form: Form) -> nn.Module:
        """As in Family."""
        assert isinstance(network, ConvTdfNet)
        return conv_tdf_engine(network, form)


def _scales(facts: Facts) -> int:
    return int(facts["num_blocks"]) // 2


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names of later code."""
    return {_newer(key): tensor for key, tensor in state.items()}


def _newer(key: str) -> str:
    for old, new in _OLD_KEYS.items():
        key = re.sub(old, new, key)
    return key


def _facts(keys: Keys) -> dict[str, Any]:
    """Everything about an MDX-Net that its weights decide, under the names of ConvTDFNet's arguments.

    Not every file has the window and padding of its STFT; without these `n_fft` and `dim_t` are None.
    """
    first, tdf = "encoding_blocks.0.tfc.H", "encoding_blocks.0.tdf"
    packed = keys.size("first_conv.0.weight", 1)
    if packed % 2:
        raise keys.error(
            f"first_conv.0.weight is for {packed} channels, not for pairs of real and imaginary part"
        )
    kernel = keys.size(f"{first}.0.0.weight", 2)
    if kernel % 2 == 0:
        raise keys.error(f"{first}.0.0.weight is a convolution over {kernel}, an even number")
    n_fft = _window(keys)
    dim_t, dim_f = _padding(keys, n_fft)
    linear = f"{tdf}.0.weight" in keys.state
    narrow = keys.narrowing(f"{tdf}.0.weight") if f"{tdf}.3.weight" in keys.state else 0
    return {
        "architecture": "mdx_net",
        "channels": packed // 2,
        "num_stems": keys.ratio("final_conv.0.weight", packed),
        "n_fft": n_fft,
        "dim_c": packed,
        "dim_f": keys.size(f"{tdf}.0.weight", 1) if linear else dim_f,
        "dim_t": dim_t,
        "g": keys.size("first_conv.0.weight", 0),
        "k": kernel,
        "l": keys.count(rf"{re.escape(first)}\.(\d+)\."),
        "num_blocks": 2 * keys.count(r"encoding_blocks\.(\d+)\.") + 1,
        "bn": narrow if linear else _NO_LAYERS,
        "bias": f"{tdf}.0.bias" in keys.state if linear else None,
        "norm": stored_norm(keys.state),
    }


def _window(keys: Keys) -> int | None:
    """n_fft, where the checkpoint brings the window of its STFT along; the runtime's must be the same."""
    window = keys.state.get("window")
    if window is None:
        return None
    hann = torch.hann_window(window.numel())
    if window.shape != hann.shape or not torch.allclose(window.float(), hann, atol=1e-3):
        raise keys.error("window is not a Hann window")
    return len(hann)


def _padding(keys: Keys, n_fft: int | None) -> tuple[int | None, int | None]:
    """Frames and dim_f, by the zeros that a checkpoint may bring along for the bins above dim_f."""
    padding = keys.state.get("freq_pad")
    if padding is None:
        return None, None
    if padding.ndim != 4 or padding.any():
        raise keys.error("freq_pad is not a spectrogram of zeros")
    above, frames = padding.shape[2:]
    # kuielab's later code keeps one frame, for any number of them.
    return frames if frames > 1 else None, n_fft // 2 + 1 - above if n_fft else None
