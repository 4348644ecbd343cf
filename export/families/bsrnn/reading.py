"""What the weights and the hyper-parameters of a BSRNN checkpoint say of the network."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from rofo.export.errors import CheckpointError
from rofo.export.source import Source
from rofo.export.source.keys import Keys, without_windows
from rofo.export.source.msst import Section

# Beside the arguments of the network, what a Lightning file or hydra's yaml holds of training and evaluation.
_IGNORED = frozenset(
    ("cfg_optim", "cfg_scheduler", "cfg_eval", "targets", "target", "sdr_type", "win_dur", "eval_device",
     "verbose_per_track", "rec_dir", "name", "out_dir", "name_out_dir", "name_tblog_dir", "joint_bandsplit",
     "eval_segment_len", "eval_overlap", "args")
)  # fmt: skip
_NAMES = {"n_hop": "hop_length", "nb_channels": "channels"}
_NUMBERS = (
    "sample_rate", "n_fft", "n_hop", "nb_channels", "feature_dim", "num_repeat", "n_att_head", "attn_enc_dim",
    "fac_sep", "fac_mask", "fac_tac",
)  # fmt: skip
_TEXTS = ("time_layer", "band_layer", "act_tac")
# What the weights do not tell, and the only values that are supported.
_FIXED: dict[str, tuple[Any, ...]] = {
    "n_heads": (1,),
    "group_num": (1,),
    "bidirectional": (True,),
    "mask_ctxt": (0,),
    "subtract_last_trgt": (False,),
    "stereo": (None, "tac"),
}


def prefixes(state: Mapping[str, Any]) -> dict[str, str]:
    """Target -> what stands before its keys, one entry of no name for a network that is alone."""
    pattern = re.compile(r"(model\.|source_models\.([^.]+)\.)?BN\.0\.0\.weight$")
    matches = (pattern.match(key) for key in state)
    return {match[2] or "": match[1] or "" for match in matches if match}


def weights_facts(source: Source) -> dict[str, Any]:
    """As Family.weights: the arguments of the network, `bands` of each network, `num_stems`, `n_fft`."""
    found = {target: _described(source, prefix) for target, prefix in prefixes(source.state).items()}
    first, *others = found.values()
    bands, maskers = tuple(one.pop("bands") for one in found.values()), first.pop("maskers")
    for target, one in found.items():
        one.pop("maskers", None)
        odd = sorted(name for name in first.keys() | one.keys() if first.get(name) != one.get(name))
        if odd:
            raise CheckpointError(
                f"{source.path}: {target} differs from other targets in {', '.join(odd)}; "
                "export the checkpoint of each target alone"
            )
    alone = "" in found
    stems = {} if alone else {"stems": tuple(found)}
    return {
        "architecture": "bsrnn",
        "num_stems": maskers if alone else 1 + len(others),
        "bands": bands,
        **stems,
        **first,
    }


def said_facts(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """As Family.yaml, of the hyper-parameters of a Lightning file or the yaml that hydra made them of."""
    section = Section({"hyper_parameters": config}, "hyper_parameters", problems)
    unknown = sorted(set(config) - _IGNORED - set(_NUMBERS) - set(_TEXTS) - set(_FIXED) - {"eps"})
    if unknown:
        problems.append(f"unknown arguments of the network: {', '.join(unknown)}")
    for name, allowed in _FIXED.items():
        if name in config and config[name] not in allowed:
            problems.append(f"a BSRNN with {name} {config[name]} is not supported yet")
    found: dict[str, Any] = {_NAMES.get(name, name): _number(section, name) for name in _NUMBERS}
    found |= {name: section.text(name) for name in _TEXTS}
    found["eps"] = _float(config, "eps", problems)
    targets = config.get("targets", config.get("target"))
    found["stems"] = (targets,) if isinstance(targets, str) else section.names("targets")
    seconds, overlap = (_float(config, f"eval_{name}", problems) for name in ("segment_len", "overlap"))
    if seconds and overlap:
        found["chunk_seconds"] = seconds * (1 + 2 * overlap)
        found["overlap"] = overlap / (1 + 2 * overlap)
    return found


def plain_state(source: Source) -> dict[str, torch.Tensor]:
    """The weights under the names of the newest commits, without the windows of the transforms.

    Empties the source's state. Raises CheckpointError where a window is not Hann's.
    """
    state = without_windows(source.path, source.state, r"(^|\.)i?stft\.transf\.window$")
    source.state.clear()
    # Before there were several maskers, there was one mask.
    return {
        re.sub(r"^(source_models\.[^.]+\.)?mask\.", r"\1maskers.0.mask.", key.removeprefix("model.")): tensor
        for key, tensor in state.items()
    }


def _described(source: Source, prefix: str) -> dict[str, Any]:
    """The network whose keys begin with `prefix`; `maskers` is how many targets it has."""
    keys = Keys(source.path, source.state, "BSRNN")
    start = re.escape(prefix)
    width = keys.size(f"{prefix}BN.0.1.weight", 0)
    count = keys.count(rf"{start}BN\.(\d+)\.")
    bands = tuple(keys.size(f"{prefix}BN.{i}.1.weight", 1) // 2 for i in range(count))
    window = source.state.get(f"{prefix}stft.transf.window")
    n_fft = 2 * (sum(bands) - 1) if window is None else len(window)
    if sum(bands) == 2 * (n_fft // 2 + 1):
        raise _unsupported(source, "both channels in one band (stereo naive)")
    maskers = len(keys.numbers(rf"{start}maskers\.(\d+)\."))
    mask = f"{prefix}maskers.0.mask" if maskers else f"{prefix}mask"
    net = f"{prefix}separator.0"
    if keys.size(f"{net}.time_net.norm.weight", 0) != width:
        raise _unsupported(source, "parallel heads (n_heads)")
    found = {
        "n_fft": n_fft,
        "bands": bands,
        "maskers": maskers or 1,
        "feature_dim": width,
        "num_repeat": keys.count(rf"{start}separator\.(\d+)\."),
        "time_layer": _layer(source, f"{net}.time_net.main_layer"),
        "band_layer": _layer(source, f"{net}.band_net.main_layer"),
        "n_att_head": len(keys.numbers(rf"{re.escape(net)}\.attn_block\.attn_conv_Q_(\d+)\.")),
        "fac_sep": keys.size(f"{net}.time_net.proj.weight", 1) // (2 * width),
        "fac_mask": keys.ratio(f"{mask}.0.1.weight", width),
    }
    if found["n_att_head"]:
        found["attn_enc_dim"] = keys.size(f"{net}.attn_block.attn_conv_Q_0.0.weight", 0)
    if f"{net}.tac_module.transform.0.weight" in source.state:
        found["fac_tac"] = keys.ratio(f"{net}.tac_module.transform.0.weight", width)
        found["act_tac"] = "prelu" if f"{net}.tac_module.transform.1.weight" in source.state else "tanh"
    return found


def _layer(source: Source, prefix: str) -> str:
    """The kind of a layer, by its keys and the number of its gates."""
    if f"{prefix}.0.weight" in source.state:
        return "conv"
    keys = Keys(source.path, source.state, "BSRNN")
    if f"{prefix}.weight_hh_l0_reverse" not in source.state and f"{prefix}.weight_hh_l0" in source.state:
        raise _unsupported(source, "recurrent layers in one direction")
    gates = keys.ratio(f"{prefix}.weight_hh_l0", keys.size(f"{prefix}.weight_hh_l0", 1))
    kinds = {3: "gru", 4: "lstm"}
    if gates not in kinds:
        raise keys.error(f"{prefix} has {gates} gates, neither an LSTM nor a GRU")
    return kinds[gates]


def _unsupported(source: Source, what: str) -> CheckpointError:
    return CheckpointError(f"{source.path}: a BSRNN with {what}: not supported yet")


def _number(section: Section, name: str) -> int | None:
    """A whole number; 0 is one that some arguments may have."""
    return 0 if section.values.get(name) == 0 else section.integer(name)


def _float(config: Mapping[str, Any], name: str, problems: list[str]) -> float | None:
    value = config.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        problems.append(f"{name} is {value}, not a number above zero")
        return None
    return float(value)
