"""What the weights and the yaml of a Bandit say of the network."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rofo.export.errors import CheckpointError
from rofo.export.families.band_groups import Bands
from rofo.export.source import Source
from rofo.export.source.keys import Keys, without_windows
from rofo.export.source.msst import Section, use_facts

SPLIT = re.compile(r"(^|\.)band_split\.norm_fc_modules\.0\.")

# The second version's keys, whose layers are in nn.Sequential, as those of the first.
_RENAMED = (
    (r"norm_fc_modules\.(\d+)\.combined\.0\.", r"norm_fc_modules.\1.norm."),
    (r"norm_fc_modules\.(\d+)\.combined\.1\.", r"norm_fc_modules.\1.fc."),
    (r"norm_mlp\.(\d+)\.combined\.0\.", r"norm_mlp.\1.norm."),
    (r"norm_mlp\.(\d+)\.combined\.1\.", r"norm_mlp.\1.hidden."),
    (r"norm_mlp\.(\d+)\.combined\.2\.", r"norm_mlp.\1.output."),
)
# Networks of the same papers that are others: (pattern in a key, what it is).
_OTHERS = (
    (r"^tf_model\.seqband\.\d+\.tf\.", "transformers"),
    (r"^tf_model\.seqband\.\d+\.conv\.", "convolutions"),
    (r"^tf_model\.seqband\.\d+\.\d+\.", "parallel layers (parallel_mode)"),
    (r"\.output2\.", "masks that are added too (mult_add_mask)"),
)
_NUMBERS = ("n_fft", "hop_length", "n_sqm_modules", "emb_dim", "rnn_dim", "mlp_dim")
# The only values that are supported, the original's own defaults among them.
_FIXED: dict[str, tuple[Any, ...]] = {
    "in_channel": (1,),
    "in_channels": (1,),
    "normalize_channel_independently": (False,),
    "treat_channel_as_feature": (True,),
    "bidirectional": (True,),
    "hidden_activation": ("Tanh",),
    "hidden_activation_kwargs": (None, {}),
    "complex_mask": (True,),
    "window_fn": ("hann_window",),
    "wkwargs": (None, {}),
    "power": (None,),
    "center": (True,),
    "onesided": (True,),
    "cond_dim": (0,),
    "mult_add_mask": (False,),
}
# What bands are made of is in the weights; the rest is of training, or has no use in the original.
_IGNORED = frozenset(
    ("band_specs", "band_type", "n_bands", "fs", "require_no_overlap", "require_no_gap", "freeze_encoder",
     "normalize_input", "stft_precisions", "bandsplit_precisions", "tf_model_precisions",
     "mask_estim_precisions")
)  # fmt: skip
_KNOWN = {*_NUMBERS, *_FIXED, *_IGNORED, "stems", "rnn_type", "use_freq_weights", "win_length", "normalized",
          "pad_mode"}  # fmt: skip


def plain_keys(state: Iterable[str]) -> dict[str, str]:
    """Our name of a weight -> its key in a file of either version, Lightning's or not.

    What lies beside the network in a Lightning file (losses) is left out. The second version has masks twice,
    under the first's names and under its own, which go before.
    """
    keys = sorted(state, key=lambda key: ".combined." in key)
    lightning = any(key.startswith("model.") for key in keys)
    found = {}
    for key in keys:
        if lightning and not key.startswith("model."):
            continue
        name = key.replace("_orig_mod.", "").removeprefix("model.").removeprefix("bsrnn.")
        for pattern, ours in _RENAMED:
            name = re.sub(pattern, ours, name)
        found[name] = key
    return _counted(_with_its_stem(found))


def weights_facts(source: Source) -> dict[str, Any]:
    """As Family.weights: the arguments of the network, `bands` as (first bin, bins), the stems' names."""
    names = plain_keys(source.state)
    state = {name: source.state[key] for name, key in names.items()}
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in names):
            raise CheckpointError(f"{source.path}: a Bandit with {what}: not supported yet")
    keys = Keys(source.path, state, "Bandit")
    stems = tuple(dict.fromkeys(match[1] for match in map(_STEM.match, _in_order(source, names)) if match))
    if not stems:
        raise keys.error("has no mask_estim")
    count = keys.count(r"band_split\.norm_fc_modules\.(\d+)\.")
    widths = [keys.size(f"band_split.norm_fc_modules.{i}.norm.weight", 0) // 2 for i in range(count)]
    first = f"mask_estim.{stems[0]}"
    if keys.size(f"{first}.norm_mlp.0.output.0.weight", 0) != 4 * widths[0]:
        raise CheckpointError(f"{source.path}: a Bandit with real masks (complex_mask): not supported yet")
    tables = [state.get(f"{first}.freq_weights/{i}") for i in range(count)]
    weighted = [table for table in tables if table is not None]
    rnn = "tf_model.seqband.0.rnn"
    if f"{rnn}.weight_hh_l0_reverse" not in state:
        raise CheckpointError(f"{source.path}: a Bandit with layers in one direction: not supported yet")
    layers = keys.count(r"tf_model\.seqband\.(\d+)\.")
    window = state.get("stft.window")
    return {
        "architecture": "bandit_v2" if any(".combined." in key for key in source.state) else "bandit",
        "stems": stems,
        "num_stems": len(stems),
        "bands": _overlapping(keys, widths, weighted) if weighted else _side_by_side(widths),
        "use_freq_weights": bool(weighted),
        "n_sqm_modules": layers // 2,
        "rnn_type": _kind(keys, f"{rnn}.weight_hh_l0"),
        "rnn_dim": keys.size(f"{rnn}.weight_hh_l0", 1),
        "emb_dim": keys.size(f"{rnn}.weight_ih_l0", 1),
        "mlp_dim": keys.size(f"{first}.norm_mlp.0.hidden.0.weight", 0),
        **({} if window is None else {"n_fft": len(window)}),
    }


def yaml_facts(config: Mapping[str, Any], weights: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """As Family.yaml, of MSST's layout; the second version's arguments are under `kwargs`."""
    second = "kwargs" in config
    model = Section(config, "kwargs" if second else "model", problems)
    unknown = sorted(set(model.values) - _KNOWN)
    if unknown:
        problems.append(f"unknown options of the model: {', '.join(unknown)}")
    for name, allowed in _FIXED.items():
        if name in model.values and model.values[name] not in allowed:
            problems.append(f"a Bandit with {name} {model.values[name]} is not supported yet")
    found: dict[str, Any] = {name: model.integer(name) for name in _NUMBERS}
    found["architecture"] = "bandit_v2" if second else "bandit" if "model" in config else None
    found |= {"rnn_type": model.text("rnn_type"), "use_freq_weights": model.flag("use_freq_weights")}
    window = model.integer("win_length")
    if window is not None and window != (found["n_fft"] or window):
        problems.append(f"win_length is {window} but n_fft {found['n_fft']}; only equal ones are supported")
    found["stft_window_normalized"] = model.flag("normalized")
    found["stft_padding"] = model.text("pad_mode")
    if found["stft_padding"] not in (None, "constant", "reflect"):
        problems.append(f"pad_mode is {found['stft_padding']}, neither constant nor reflect")
        found["stft_padding"] = None
    if not weights.get("use_freq_weights", True):
        found["use_freq_weights"] = None  # bands that do not overlap have none, whatever the yaml says
    use = use_facts(config, problems)
    if use["stems"] and sorted(use["stems"]) == sorted(weights.get("stems", ())):
        use["stems"] = None  # the weights have them in the order of the network's outputs
    return {**found, **{name: value for name, value in use.items() if value is not None}}


def plain_state(source: Source) -> dict[str, Tensor]:
    """The weights under the names of our network, without the windows of the transforms.

    Empties the source's state. Raises CheckpointError where a window is not Hann's.
    """
    names = plain_keys(source.state)
    state = {name: source.state[key] for name, key in names.items()}
    source.state.clear()
    return without_windows(source.path, state, r"^i?stft\.window$")


_STEM = re.compile(r"mask_estim\.([^.]+)\.norm_mlp\.0\.")


def _in_order(source: Source, names: Mapping[str, str]) -> list[str]:
    """Our names in the order of the file, in which the stems are the network's outputs."""
    ours = {key: name for name, key in names.items()}
    return [ours[key] for key in source.state if key in ours]


def _with_its_stem(names: Mapping[str, str]) -> dict[str, str]:
    """A network for one stem alone has the stem's name before all its keys."""
    alone = {name.partition(".")[0] for name in names if re.match(r"[^.]+\.band_split\.", name)}
    if len(alone) != 1:
        return dict(names)
    (stem,) = alone
    return {
        re.sub(r"^mask_estim\.", f"mask_estim.{stem}.", name.removeprefix(f"{stem}.")): key
        for name, key in names.items()
    }


def _counted(names: Mapping[str, str]) -> dict[str, str]:
    """The second version counts the transposes between its layers as well."""
    if not any(".combined." in key for key in names.values()):
        return dict(names)
    return {
        re.sub(
            r"^tf_model\.seqband\.(\d+)", lambda match: f"tf_model.seqband.{int(match[1]) // 2}", name
        ): key
        for name, key in names.items()
    }


def _side_by_side(widths: Sequence[int]) -> Bands:
    return tuple((sum(widths[:i]), width) for i, width in enumerate(widths))


def _overlapping(keys: Keys, widths: Sequence[int], tables: Sequence[Tensor]) -> Bands:
    """Where bands are that overlap, of whatever scale: in every bin their weights add up to 1.

    A band begins at the first bin that the bands before it leave short of 1: bins below are complete, and
    were it to begin above, nobody would complete this one.
    """
    if [len(table) for table in tables] != list(widths):
        raise keys.error("freq_weights are not as wide as the bands")
    tolerance = 16 * max(torch.finfo(table.dtype).eps for table in (*tables, torch.zeros(1)))
    total = torch.zeros(sum(widths) + 1, dtype=torch.float64)
    bands = []
    for width, table in zip(widths, tables, strict=True):
        first = int((total < 1 - tolerance).to(torch.uint8).argmax())
        total[first : first + width] += table.double()
        bands.append((first, width))
    covered = total[: bands[-1][0] + bands[-1][1]]
    if not torch.all((covered - 1).abs() <= tolerance):
        raise keys.error("freq_weights do not add up to 1 in every bin")
    return tuple(bands)


def _kind(keys: Keys, name: str) -> str:
    gates = keys.ratio(name, keys.size(name, 1))
    kinds = {3: "GRU", 4: "LSTM"}
    if gates not in kinds:
        raise keys.error(f"{name} has {gates} gates, neither an LSTM nor a GRU")
    return kinds[gates]
