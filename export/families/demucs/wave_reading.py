"""What a file says of a Demucs of one branch: its keys and shapes, facebook's package, or MSST's yaml."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from rofo.export.families.demucs.reading import Arguments, package_config, residual_facts
from rofo.export.families.demucs.wave_network import WaveSizes
from rofo.export.source import Source
from rofo.export.source.keys import Keys

# What MSST's yaml calls a network, or would -> the class of facebook's packages; v1 has v2's.
CLASSES = {"demucs": "demucs.demucs.Demucs", "demucs_v2": "demucs.model.Demucs"}
GENERATIONS = {"demucs_v1": 1, "demucs_v2": 2, "demucs": 3}

ARGUMENTS = Arguments(
    sizes=frozenset(field.name for field in fields(WaveSizes))
    - {"audio_channels", "num_stems", "generation"},
    renamed={"channels": "width", "normalize": "levelled"},
    always={"rewrite": (True,), "glu": (True,), "upsample": (None, False)},
    unused=frozenset(("dconv_init", "rescale")),
)
# The convolution that every level begins with, and what a v3 has two places after it, or a v2 one.
FIRST = "encoder.0.0.weight"
_V3, _V2 = r"encoder\.0\.3\.(weight|layers\.0\.0\.weight)", r"encoder\.0\.2\.weight"


def is_wave(source: Source) -> bool:
    """Whether these are keys of such a network."""
    return FIRST in source.state and any(re.fullmatch(f"{_V3}|{_V2}", key) for key in source.state)


def weights_facts(source: Source) -> dict[str, Any]:
    """The facts that keys and shapes decide. Raises CheckpointError where one is missing or misshapen."""
    keys = Keys(source.path, source.state, "Demucs")
    architecture = _architecture(source)
    newest = architecture == "demucs"
    depth, channels = keys.count(r"encoder\.(\d+)\.0\.weight"), keys.size(FIRST, 1)
    width, seen = keys.size(FIRST, 0), keys.size("decoder.0.0.weight", 2)
    branches = {1: "encoder.0.3.layers", 2: "decoder.0.3.layers"}  # by the bit of dconv_mode
    residual = residual_facts(keys, branches) if newest else {}
    last = f"decoder.{depth - 1}.{2 if not newest else 4 if residual['dconv_mode'] & 2 else 3}.weight"
    layers = "lstm.lstm.weight_ih_l0" in source.state
    return {
        "architecture": architecture,
        "generation": GENERATIONS[architecture],
        "channels": channels,
        "num_stems": keys.size(last, 1) // channels,
        "width": width,
        "depth": depth,
        "kernel_size": keys.size(FIRST, 2),
        "context": (seen - 1) // 2 if newest else seen,
        "lstm_layers": keys.count(r"lstm\.lstm\.weight_ih_l(\d+)$") if layers else 0,
        "spectrogram": False,
        "waveform": True,
        **residual,
    }


def config(package: Mapping[str, Any]) -> dict[str, Any] | None:
    """Class and arguments of facebook's package in the layout of MSST's yaml; None for another file.

    v1's sources are a number; v2's segment is `segment_length`, in samples.
    """
    found = package_config(package, CLASSES)
    if found is None:
        return None
    model, training = found[found["model"]], found["training"]
    if not isinstance(training.get("instruments"), list):
        training.pop("instruments", None)
    if "segment_length" in model:
        training["segment"] = f"{model.pop('segment_length')}/{training.get('samplerate', 44100)}"
    if found["model"] == "demucs_v2" and _is_first(package):
        found |= {"model": "demucs_v1", "demucs_v1": found.pop("demucs_v2")}
    return found


def _architecture(source: Source) -> str:
    """v1's keys are v2's: a package tells them apart; without one it is a v2, published as state dicts."""
    if any(re.fullmatch(_V3, key) for key in source.state):
        return "demucs"
    package = source.hyper_parameters
    return "demucs_v1" if package.get("klass") == CLASSES["demucs_v2"] and _is_first(package) else "demucs_v2"


def _is_first(package: Mapping[str, Any]) -> bool:
    """v1's class takes the number of sources, v2's their names."""
    arguments = package.get("args") or ()
    sources = arguments[0] if arguments else (package.get("kwargs") or {}).get("sources")
    return not isinstance(sources, list | tuple)
