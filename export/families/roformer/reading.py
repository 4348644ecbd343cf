"""What is said of a Roformer: by the keys and shapes of its weights, by a yaml, by a Lightning file."""

import re
from collections.abc import Mapping
from typing import Any

from rofo.export.facts import Facts
from rofo.export.families.roformer import experimental
from rofo.export.source import Source
from rofo.export.source.keys import Keys
from rofo.export.source.msst import Section, model_types, use_facts

NAMES = {
    "bs_roformer": "BS-Roformer",
    "mel_band_roformer": "Mel-Band Roformer",
    "bs_conformer": "BS-Conformer",
    "mel_band_conformer": "Mel-Band Conformer",
}
# What only variants have: facts that are 0 or False in the weights of all others.
VARIANT_FACTS = (
    "use_value_residual_learning", "use_mask_estimator_hyper_ace", "hyperace_version",
    "use_mask_estimator_fno", "refiner_depth", "siamese",
)  # fmt: skip
CONFORMERS = frozenset({"bs_conformer", "mel_band_conformer"})

# The options of the network's class that the weights decide; a yaml may only agree.
_DECIDED = (
    "dim", "depth", "heads", "dim_head", "num_stems", "num_bands", "time_transformer_depth", "ff_mult",
    "freq_transformer_depth", "linear_transformer_depth", "mask_estimator_depth", "mlp_expansion_factor",
    "use_pope", "use_value_residual_learning", "use_mask_estimator_hyper_ace", "hyperace_version",
    "use_mask_estimator_fno",
)  # fmt: skip
_OF_CONFORMERS = ("conv_expansion_factor", "conv_kernel_size")
# The options that are read below.
_READ = (
    "sample_rate", "stft_n_fft", "stft_hop_length", "stft_win_length", "stft_normalized", "zero_dc",
    "skip_connection", "stereo", "freqs_per_bands",
)  # fmt: skip
# What training, a faster kernel or nothing at all uses.
_WITHOUT_EFFECT = (
    "attn_dropout", "ff_dropout", "conv_dropout", "flash_attn", "sage_attention", "attention_layout",
    "dim_freqs_in", "use_torch_checkpoint",
    "multi_stft_resolution_loss_weight", "multi_stft_resolutions_window_sizes",
    "multi_stft_hop_size", "multi_stft_normalized", "multi_stft_window_fn",
    "match_input_audio_length",  # the runtime always returns the chunk's length
    "use_shared_bias",  # told by keys alone: the yaml of one Roformer-SW file travels with another
)  # fmt: skip
# The serialisations of Roformer-SW: keys of what is kept once, and what every attention calls it.
SHARED_BIAS = {
    "linear_62": {"linear_62_bias_0": "to_qkv.bias", "linear_64_bias_0": "to_out.0.bias"},
    "shared_qkv": {"shared_qkv_bias": "to_qkv.bias", "shared_out_bias": "to_out.0.bias"},
}
# Variants that other keys of the state dict give away; the options may be present and off.
_MUST_BE_OFF = {"num_residual_streams": 1, "stft_window_fn": None}

_FIRST_MASK = "mask_estimators.0"
_FIRST_FNO = f"{_FIRST_MASK}.to_freqs.0.0.fno_blocks"


def weights_facts(source: Source) -> dict[str, Any]:
    """The facts in the keys and shapes of a state dict, which is left as it is.

    Beside the yaml's names: `band_inputs` are the input features per band (2 x channels x bins),
    `shared_bias` tells the serialisations of Roformer-SW apart ("none", "linear_62", "shared_qkv"),
    `table_frames` is how many frames stored position tables cover, None without such tables; `refiner_depth`
    is the number of pairs of transformers in a mask estimator; `siamese` tells two streams. Depths of
    conformers go by the name of those of transformers. Raises CheckpointError where a key that the network
    cannot be without is missing or has an impossible shape.
    """
    state, keys = source.state, Keys(source.path, source.state, "Roformer")
    dim = keys.size("band_split.to_features.0.1.weight", 0)
    bands = keys.count(r"band_split\.to_features\.(\d+)\.")
    blocks = keys.count(r"layers\.0\.(\d+)\.layers\.")
    if blocks not in (2, 3):
        raise keys.error(f"layers.0 has {blocks} transformers instead of 2 or 3")
    linear = blocks - 2  # 1 where a layer begins with a transformer of linear attention
    block = f"layers.0.{linear}.layers.0"
    conformer = f"{block}.attn.to_gates.weight" in state
    attention, feed_forward = (
        (f"{block}.attn", f"{block}.ff1.ff") if conformer else (f"{block}.0", f"{block}.1")
    )
    heads = keys.size(f"{attention}.to_gates.weight", 0)
    architecture = _architecture(keys, conformer=conformer)
    masks = _mask_facts(keys, architecture, dim)
    return {
        "architecture": architecture,
        "dim": dim,
        "depth": keys.count(r"layers\.(\d+)\."),
        "heads": heads,
        "dim_head": keys.ratio(f"{attention}.to_qkv.weight", 3 * heads),
        "num_stems": keys.count(r"mask_estimators\.(\d+)\."),
        "time_transformer_depth": keys.count(rf"layers\.0\.{linear}\.layers\.(\d+)\."),
        "freq_transformer_depth": keys.count(rf"layers\.0\.{linear + 1}\.layers\.(\d+)\."),
        "linear_transformer_depth": keys.count(r"layers\.0\.0\.layers\.(\d+)\.") if linear else 0,
        "num_bands": bands,
        "band_inputs": tuple(keys.size(f"band_split.to_features.{k}.1.weight", 1) for k in range(bands)),
        "ff_mult": keys.ratio(f"{feed_forward}.net.1.weight", dim),
        "use_pope": any(".pope_embed." in key for key in state),
        "table_frames": keys.size("cos_emb_time", 0) if "cos_emb_time" in state else None,
        "shared_bias": next(
            (name for name, keys in SHARED_BIAS.items() if next(iter(keys)) in state), "none"
        ),
        "siamese": any(".y_attn." in key for key in state),
        "use_value_residual_learning": any(".to_value_residual_mix." in key for key in state),
        **masks,
        **(_convolution(keys, f"{block}.conv.net.4.weight", dim) if conformer else {}),
    }


def _mask_facts(keys: Keys, architecture: str, dim: int) -> dict[str, Any]:
    """What mask estimators are made of: perceptrons, with something added, or Fourier operators."""
    head = f"{_FIRST_MASK}.segm.upsample_head"
    hyperace = any(key.startswith(f"{_FIRST_MASK}.segm.") for key in keys.state)
    refined = any(key.startswith(f"{head}.block1.out_conv.") for key in keys.state)
    facts: dict[str, Any] = {
        "use_mask_estimator_hyper_ace": hyperace,
        "hyperace_version": 1 + refined if hyperace else 0,
        "use_mask_estimator_fno": any(key.startswith(f"{_FIRST_FNO}.") for key in keys.state),
        "refiner_depth": len(keys.numbers(rf"{re.escape(_FIRST_MASK)}\.layers\.(\d+)\.")),
    }
    if facts["use_mask_estimator_fno"]:
        return facts | {
            "fno_modes": keys.size(f"{_FIRST_FNO}.convs.0.weight.tensor", 1),
            "fno_depth": keys.count(rf"{re.escape(_FIRST_FNO)}\.convs\.(\d+)\."),
        }
    layers = _mask_layers(keys)
    first_layer = f"{_FIRST_MASK}.to_freqs.0.0.0.weight"
    return facts | {
        # Mel-Band Roformers count the hidden layers of a mask's perceptron, all others the linear ones.
        "mask_estimator_depth": layers - (architecture == "mel_band_roformer"),
        "mlp_expansion_factor": keys.ratio(first_layer, dim) if layers > 1 else None,
    }


def _convolution(keys: Keys, name: str, dim: int) -> dict[str, Any]:
    return {"conv_expansion_factor": keys.ratio(name, dim), "conv_kernel_size": keys.size(name, 2)}


def yaml_facts(config: Mapping[str, Any], weights: Facts, problems: list[str]) -> dict[str, Any]:
    """The facts in a yaml, with the defaults of current MSST where it is silent and no other default holds.

    `mel_sample_rate` is the rate that the mel filters were made for, in Hz; `experimental` is True for MSST's
    classes of that name. What is mistyped, unknown or not
    supported is appended to `problems`, one clause each.
    """
    config = lightning_config(config) or config
    model = Section(config, "model", problems)
    if not model.values:
        problems.append("it has no model section")
    mel = is_mel(weights)
    if weights["architecture"] in CONFORMERS:  # which has other names for the same depths
        names = {name: name.replace("_conformer_depth", "_transformer_depth") for name in model.values}
        model = Section({"model": {names[n]: v for n, v in model.values.items()}}, "model", problems)
    _check_options(model, weights["architecture"])
    types = model_types(config)
    is_experimental = any(name.endswith(experimental.SUFFIX) for name in types)
    if is_experimental:
        _check_experimental(model, types, weights["architecture"])
    n_fft, freqs = model.integer("stft_n_fft"), model.values.get("freqs_per_bands")
    window, size = model.integer("stft_win_length") or 2048, n_fft or 2048
    if window != size:
        problems.append(f"stft_win_length {window} differs from stft_n_fft {size}, which is not supported")
    used = use_facts(config, problems)
    return {
        **{name: model.values.get(name) for name in (*_DECIDED, *_OF_CONFORMERS) if name in weights},
        **used,
        "channels": None,  # audio.num_channels is 2 beside mono networks too: `stereo` is what they read
        "sample_rate": used["sample_rate"] or 44100,
        "mel_sample_rate": (model.integer("sample_rate") or 44100) if mel else None,
        "stereo": model.flag("stereo"),
        "freqs_per_bands": None if mel else tuple(freqs) if isinstance(freqs, list) else freqs,
        "n_fft": n_fft or (2048 if mel else None),
        "hop_length": model.integer("stft_hop_length") or 512,
        "stft_normalized": model.flag("stft_normalized"),
        "zero_dc": False if is_experimental else model.flag("zero_dc"),
        "skip_connection": model.flag("skip_connection"),
        "experimental": is_experimental or None,
    }


def lightning_config(hyper_parameters: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Hyper-parameters in the layout of MSST's yaml, None where they do not describe a Roformer.

    X-LANCE, in its yaml files as well, keeps the network's arguments under model.params and the rate under
    data; its code knows no zero_dc.
    """
    model = hyper_parameters.get("model")
    if not isinstance(model, Mapping):
        return None
    if isinstance(model.get("params"), Mapping):
        data = hyper_parameters.get("data")
        rate = data.get("sample_rate") if isinstance(data, Mapping) else None
        return {"model": {"zero_dc": False, **model["params"]}, "audio": {"sample_rate": rate}}
    return hyper_parameters if "dim" in model and "depth" in model else None


def _architecture(keys: Keys, *, conformer: bool) -> str:
    """BS has one norm after all layers, Mel one after each transformer; a Mel conformer has neither."""
    if "final_norm.gamma" in keys.state:
        return "bs_conformer" if conformer else "bs_roformer"
    if conformer:
        return "mel_band_conformer"
    if "layers.0.0.norm.gamma" in keys.state:
        return "mel_band_roformer"
    raise keys.error("neither final_norm.gamma (BS) nor layers.0.0.norm.gamma (Mel) is there")


def is_mel(facts: Mapping[str, Any] | Facts) -> bool:
    """Whether the bands are mel bands."""
    return str(facts["architecture"]).startswith("mel_band")


def _mask_layers(keys: Keys) -> int:
    """Linear layers of a mask's perceptron; an activation stands between two."""
    first = f"{_FIRST_MASK}.to_freqs.0.0"
    found = keys.numbers(rf"{re.escape(first)}\.(\d+)\.weight")
    if not found or found != list(range(0, 2 * len(found), 2)):
        raise keys.error(f"the linear layers of {first} have the numbers {found}")
    return len(found)


def _check_options(model: Section, architecture: str) -> None:
    """Every option that is not known, not supported, or of the other kind of bands is a problem by name."""
    on = [name for name, off in _MUST_BE_OFF.items() if model.values.get(name, off) not in (off, None)]
    model.problems.extend(f"{name} is not supported" for name in on)
    own = _OF_CONFORMERS if architecture in CONFORMERS else ()
    unknown = sorted(set(model.values).difference(_DECIDED, own, _READ, _WITHOUT_EFFECT, _MUST_BE_OFF))
    if unknown:
        model.problems.append(f"unknown model options {', '.join(unknown)}")
    mel = architecture.startswith("mel_band")
    mine, other = ("num_bands", "freqs_per_bands") if mel else ("freqs_per_bands", "num_bands")
    if other in model.values and mine not in model.values:
        model.problems.append(f"it has {other} but the weights are of a {NAMES[architecture]}")


def _check_experimental(model: Section, types: list[str], architecture: str) -> None:
    """Whether MSST's experimental class of this kind of bands would take these options."""
    wrong = [name for name in types if name != architecture + experimental.SUFFIX]
    model.problems.extend(f"model_type is {n} but the weights are of a {NAMES[architecture]}" for n in wrong)
    later = sorted(experimental.LATER.intersection(model.values))
    if later:
        model.problems.append(f"MSST's {types[0]} knows no {', '.join(later)}")
