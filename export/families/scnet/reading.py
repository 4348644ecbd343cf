"""What the weights and the yaml of an SCNet say of the network."""

from collections.abc import Mapping
from typing import Any

from rofo.export.facts import Facts
from rofo.export.source import Source
from rofo.export.source.keys import Keys
from rofo.export.source.msst import Section, use_facts

BANDS = 3
FIRST_LSTM = "separation_net.dp_modules.0.lstm_layers.0.weight_hh_l0"
FIRST_TRANSFORMER = "separation_net.dp_modules.0.freq_layer.layers.0.0.to_qkv.weight"
_NUMBERS = {
    "nfft": "n_fft",
    "hop_size": "hop_length",
    "audio_channels": "channels",
    "conv_kernel": "conv_kernel",
    "compress": "compress",
    "num_dplayer": "num_dplayer",
    "expand": "expand",
}
# Of `scnet_tran` alone: the sizes of its transformers, and what matters in training or to PyTorch only.
TRANSFORMERS = ("tran_depth", "tran_heads", "tran_dim_head", "tran_rotary_embedding_dim")
_UNUSED = ("tran_attn_dropout", "tran_ff_dropout", "tran_flash_attn")
_LISTS = ("dims", "band_stride", "band_kernel", "conv_depths")
_KNOWN = {*_NUMBERS, *_LISTS, "sources", "win_size", "normalized", "band_SR"}


def weights_facts(source: Source) -> dict[str, Any]:
    """As Family.weights, under the names of MSST's arguments; what shapes cannot tell is left to the yaml."""
    keys = Keys(source.path, source.state, "SCNet")
    blocks = range(keys.count(r"encoder\.(\d+)\."))
    down = [f"encoder.{i}.SDlayer.convs.0.weight" for i in blocks]
    dims = (keys.size(down[0], 1), *(keys.size(key, 0) for key in down))
    outputs = keys.size(f"decoder.{len(blocks) - 1}.1.convtrs.0.weight", 1)
    if dims[0] % 2 or outputs % dims[0]:
        raise keys.error(f"it takes {dims[0]} channels and gives {outputs}")
    gated = "encoder.0.conv_modules.0.layers.0.1.weight"
    is_masked, transforms = "pos_embed_f" in source.state, FIRST_TRANSFORMER in source.state
    bins = {"n_fft": 2 * (keys.size("pos_embed_f", 2) - 1)} if is_masked else {}
    within = _transformer_facts(keys) if transforms else {"expand": keys.size(FIRST_LSTM, 1) // dims[-1]}
    return {
        "architecture": "scnet_tran" if transforms else "scnet_masked" if is_masked else "scnet",
        "channels": dims[0] // 2,
        "num_stems": outputs // dims[0],
        "dims": dims,
        "band_kernel": tuple(keys.size(f"encoder.0.SDlayer.convs.{band}.weight", 2) for band in range(BANDS)),
        "conv_depths": tuple(
            keys.count(rf"encoder\.0\.conv_modules\.{band}\.layers\.(\d+)\.") for band in range(BANDS)
        ),
        "compress": dims[1] // (keys.ratio(gated, 2) or 1),
        "conv_kernel": keys.size(gated, 2),
        "num_dplayer": keys.count(r"separation_net\.dp_modules\.(\d+)\."),
        **within,
        **bins,
    }


def _transformer_facts(keys: Keys) -> dict[str, Any]:
    first = FIRST_TRANSFORMER.removesuffix("to_qkv.weight")
    heads = keys.size(f"{first}to_gates.weight", 0)
    return {
        "tran_depth": keys.count(r"separation_net\.dp_modules\.0\.freq_layer\.layers\.(\d+)\."),
        "tran_heads": heads,
        "tran_dim_head": keys.ratio(FIRST_TRANSFORMER, 3 * heads),
        "tran_rotary_embedding_dim": 2 * keys.size(f"{first}rotary_embed.freqs", 0),
    }


def yaml_facts(config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
    """As Family.yaml, of MSST's layout."""
    model = Section(config, "model", problems)
    sizes = TRANSFORMERS if weights["architecture"] == "scnet_tran" else ()
    unknown = sorted(set(model.values) - _KNOWN - {*sizes, *(_UNUSED if sizes else ())})
    if unknown:
        problems.append(f"unknown options of the model: {', '.join(unknown)}")
    found: dict[str, Any] = {fact: model.integer(name) for name, fact in _NUMBERS.items()}
    found |= {name: model.integer(name) for name in sizes}
    found |= {name: _numbers(model, name, int, problems) for name in _LISTS}
    found["band_SR"] = _numbers(model, "band_SR", float, problems)
    found["stft_normalized"] = model.flag("normalized")
    window = model.integer("win_size")
    if window is not None and window != (found["n_fft"] or window):
        problems.append(
            f"model.win_size is {window} but nfft {found['n_fft']}; only equal ones are supported"
        )
    # MSST names the outputs by training.instruments, whatever the sources are called.
    return {
        **found,
        **{name: value for name, value in use_facts(config, problems).items() if value is not None},
    }


def _numbers(section: Section, name: str, kind: type, problems: list[str]) -> tuple[Any, ...] | None:
    value = section.values.get(name)
    if value is None:
        return None
    allowed = int if kind is int else int | float
    good = isinstance(value, list) and all(isinstance(n, allowed) and not isinstance(n, bool) for n in value)
    wanted = None if name == "dims" else BANDS
    if not good or wanted not in (None, len(value)) or not all(n > 0 for n in value):
        problems.append(
            f"model.{name} is {value}, not a list of {wanted or ''} numbers above zero".replace("  ", " ")
        )
        return None
    return tuple(kind(n) for n in value)
