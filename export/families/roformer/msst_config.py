"""The yaml layout of MSST and its relatives: sections audio, model, training, inference -> Settings."""

from collections.abc import Mapping
from typing import Any

from rofo.export.families.roformer.band_layout import Layout
from rofo.export.families.roformer.settings import Settings
from rofo.export.families.roformer.shapes import Shapes
from rofo.export.source.msst import Section
from rofo.text import short

# What the network's class takes but training, a faster kernel or nothing at all uses.
_WITHOUT_EFFECT = frozenset(
    (
        "attn_dropout",
        "ff_dropout",
        "flash_attn",
        "sage_attention",
        "attention_layout",
        "dim_freqs_in",
        "use_torch_checkpoint",
        "match_input_audio_length",  # the runtime always returns the chunk's length
        "multi_stft_resolution_loss_weight",
        "multi_stft_resolutions_window_sizes",
        "multi_stft_hop_size",
        "multi_stft_normalized",
        "multi_stft_window_fn",
    )
)
# Variants that other keys of the state dict give away; the options may be present and off.
_MUST_BE_OFF = {"use_value_residual_learning": False, "num_residual_streams": 1, "stft_window_fn": None}
_READ = frozenset(
    (
        "sample_rate",
        "stft_n_fft",
        "stft_hop_length",
        "stft_win_length",
        "stft_normalized",
        "zero_dc",
        "skip_connection",
        "stereo",
        "freqs_per_bands",
        "num_bands",
        "mlp_expansion_factor",
        "use_shared_bias",  # told by keys alone: the yaml of one Roformer-SW file travels with another
    )
)


def msst_settings(config: Mapping[str, Any], shapes: Shapes, problems: list[str]) -> Settings:
    """Settings of a yaml, with the defaults of current MSST where it is silent.

    What is mistyped, unknown or contradicts `shapes` is appended to `problems`, one clause each.
    """
    audio, model, training, inference = (
        Section(config, name, problems) for name in ("audio", "model", "training", "inference")
    )
    if not model.values:
        problems.append("it has no model section")
    _check_options(model, shapes)
    n_fft = model.integer("stft_n_fft")
    _check_window(model, n_fft)
    instruments = training.names("instruments")
    target = training.text("target_instrument")
    return Settings(
        sample_rate=audio.integer("sample_rate") or 44100,
        band_rate=model.integer("sample_rate") or 44100,
        n_fft=n_fft or (2048 if shapes.family == "mel_band_roformer" else None),
        hop_length=model.integer("stft_hop_length") or 512,
        stft_normalized=model.flag("stft_normalized") or False,
        chunk=inference.integer("chunk_size") or audio.integer("chunk_size"),
        overlaps=inference.integer("num_overlap"),
        stems=(target,) if target else instruments,
        instruments=instruments,
        zero_dc=model.flag("zero_dc") is not False,
        skip_connection=model.flag("skip_connection") or False,
        normalize=inference.flag("normalize") or False,
    )


def check_layout(config: Mapping[str, Any], layout: Layout, problems: list[str]) -> None:
    """Append to `problems` where the yaml's channels or bands are not those that the weights have."""
    model = Section(config, "model", problems)
    stereo = model.flag("stereo")
    if stereo is not None and stereo != (layout.channels == 2):
        problems.append(f"stereo is {stereo} but the weights are for {layout.channels} channels")
    said, true = model.values.get("freqs_per_bands"), [count for _, count in layout.bands]
    if layout.rate is None and said is not None and said != true:
        problems.append(f"freqs_per_bands is {short(said)} but {short(true)} in the weights")


def _check_options(model: Section, shapes: Shapes) -> None:
    """Every option of the class: agrees with the weights, has no effect, or is a problem by name."""
    claims = _claims(shapes)
    for option in sorted(set(claims) & set(model.values)):
        said, true = model.values[option], claims[option]
        if said is not None and said != true:
            model.problems.append(f"{option} is {short(said)} but {true} in the weights")
    on = [name for name, off in _MUST_BE_OFF.items() if model.values.get(name, off) not in (off, None)]
    model.problems.extend(f"{name} is not supported" for name in on)
    unknown = sorted(set(model.values) - set(claims) - _READ - _WITHOUT_EFFECT - set(_MUST_BE_OFF))
    if unknown:
        model.problems.append(f"unknown model options {', '.join(unknown)}")
    _check_band_kind(model, shapes)


def _claims(shapes: Shapes) -> dict[str, Any]:
    """The options whose values the weights decide, with these values."""
    is_mel = shapes.family == "mel_band_roformer"
    claims = {
        "dim": shapes.dim,
        "depth": shapes.depth,
        "heads": shapes.heads,
        "dim_head": shapes.dim_head,
        "num_stems": shapes.num_stems,
        "time_transformer_depth": shapes.time_depth,
        "freq_transformer_depth": shapes.freq_depth,
        "linear_transformer_depth": shapes.linear_depth,
        # BS counts the linear layers of a mask MLP, Mel the hidden ones.
        "mask_estimator_depth": shapes.mask_layers - is_mel,
        "mlp_expansion_factor": shapes.mlp_expansion,
        "ff_mult": shapes.ff_mult,
        "use_pope": shapes.positions == "pope",
    }
    if shapes.mask_layers == 1:  # no hidden layer, no width
        del claims["mlp_expansion_factor"]
    return claims


def _check_band_kind(model: Section, shapes: Shapes) -> None:
    mine, other, name = "freqs_per_bands", "num_bands", "BS-Roformer"
    if shapes.family == "mel_band_roformer":
        mine, other, name = other, mine, "Mel-Band Roformer"
    if other in model.values and mine not in model.values:
        model.problems.append(f"it has {other} but the weights are of a {name}")
    count = model.integer("num_bands") if mine == "num_bands" else None
    if count is not None and count != len(shapes.band_inputs):
        model.problems.append(f"num_bands is {count} but {len(shapes.band_inputs)} in the weights")


def _check_window(model: Section, n_fft: int | None) -> None:
    window, size = model.integer("stft_win_length") or 2048, n_fft or 2048
    if window != size:
        model.problems.append(
            f"stft_win_length {window} differs from stft_n_fft {size}, which is not supported"
        )
