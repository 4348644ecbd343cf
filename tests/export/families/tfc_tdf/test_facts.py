"""Hyper-parameters of the convolutional families from weights alone, and what contradicts them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mdx_oracle import ConvOracle, TfcOracle

from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.config import elu_alpha, norm_groups
from rofo.export.families.mdx_net.settings import (
    conv_tdf_contradictions,
    conv_tdf_norm,
    tfc_tdf_config,
    tfc_tdf_contradictions,
)
from rofo.export.families.mdx_net.shapes import (
    ConvTdfShapes,
    TfcTdfShapes,
    conv_tdf_shapes,
    is_conv_tdf,
    is_tfc_tdf,
    tfc_tdf_shapes,
)

FILE = Path("model.ckpt")

CONV = ConvTdfShapes(
    channels=2, num_stems=1, n_fft=160, dim_f=64, dim_t=16, growth=6, kernel=3, layers=2, num_scales=2,
    bottleneck=4, tdf_bias=False, norm="BatchNorm", key_layout="new",
)  # fmt: skip

CONVS = {
    "plain": (ConvOracle(), CONV),
    "old": (ConvOracle(layout="old"), replace(CONV, key_layout="old")),
    "EMA": (ConvOracle(ema=True), replace(CONV, n_fft=None, dim_t=None)),
    "GroupNorm": (ConvOracle({"optimizer": "adamw"}), replace(CONV, norm=None)),
    "bias": (ConvOracle({"bias": True}), replace(CONV, tdf_bias=True)),
    "one linear layer": (ConvOracle({"bn": 0}), replace(CONV, bottleneck=0)),
    "no linear layers": (ConvOracle({"bn": None}), replace(CONV, bottleneck=None)),
    "neither they nor the STFT": (
        ConvOracle({"bn": None}, ema=True),
        replace(CONV, bottleneck=None, n_fft=None, dim_t=None, dim_f=None),
    ),
    "mono": (ConvOracle({"dim_c": 2}), replace(CONV, channels=1)),
    "four stems": (ConvOracle(num_stems=4), replace(CONV, num_stems=4)),
    "any number of frames": (ConvOracle({"dim_t": 1}), replace(CONV, dim_t=None)),
    "others": (
        ConvOracle({"num_blocks": 8, "l": 3, "k": 5, "g": 4, "bn": 2, "dim_f": 80}),
        replace(CONV, num_scales=4, layers=3, kernel=5, growth=4, bottleneck=2, dim_f=80),
    ),
}

TFC = TfcTdfShapes(
    inputs=16, sub_bins=64, num_stems=2, num_channels=8, growth=6, num_scales=2, num_blocks_per_scale=2,
    bottleneck_factor=4, scale=(2, 2), norm=None,
)  # fmt: skip

TFCS = {
    "plain": (TfcOracle(), TFC),
    "BatchNorm": (TfcOracle({"norm": "BatchNorm"}), replace(TFC, norm="BatchNorm")),
    "mono": (TfcOracle(channels=1), replace(TFC, inputs=8)),
    "two bands": (TfcOracle({"num_subbands": 2}), replace(TFC, inputs=8, sub_bins=128)),
    "one stem": (TfcOracle(stems=("vocals",)), replace(TFC, num_stems=1)),
    "others": (
        TfcOracle({"scale": [1, 2], "num_scales": 3, "num_blocks_per_scale": 1, "bottleneck_factor": 2,
                   "num_channels": 5, "growth": 3}),
        replace(TFC, scale=(1, 2), num_scales=3, num_blocks_per_scale=1, bottleneck_factor=2, num_channels=5,
                growth=3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVS)
def test_conv_tdf_is_read_off_its_weights(name: str) -> None:
    oracle, wanted = CONVS[name]
    state = oracle.state()
    assert is_conv_tdf(state)
    assert not is_tfc_tdf(state)
    assert conv_tdf_shapes(FILE, state) == wanted
    assert conv_tdf_contradictions(oracle.hyper, wanted) == []


@pytest.mark.parametrize("name", TFCS)
def test_tfc_tdf_is_read_off_its_weights(name: str) -> None:
    oracle, wanted = TFCS[name]
    state = oracle.network().state_dict()
    assert is_tfc_tdf(state)
    assert not is_conv_tdf(state)
    assert tfc_tdf_shapes(FILE, state) == wanted
    assert tfc_tdf_contradictions(oracle.yaml(), wanted) == []


def test_sub_bands_follow_from_the_channels() -> None:
    facts = {"sample_rate": 44100, "n_fft": 640, "hop_length": 64, "norm": "InstanceNorm", "act": "gelu"}
    stereo, mono = (tfc_tdf_config(TFC, channels=channels, **facts) for channels in (2, 1))
    assert (stereo.num_subbands, stereo.dim_f) == (4, 256)
    assert (mono.num_subbands, mono.dim_f) == (8, 512)


def test_every_contradiction_of_hyper_parameters() -> None:
    told = ConvOracle().hyper | {"dim_c": 2, "dim_f": 32, "n_fft": 128, "num_blocks": 7, "l": 3, "bias": True}
    told |= {"bn": None, "optimizer": "adamw"}
    found = conv_tdf_contradictions(told, CONV)
    assert found == [
        "dim_c is 2 but 4 in the weights",
        "l is 3 but 2 in the weights",
        "bn is None but 4 in the weights",
        "dim_f is 32 but 64 in the weights",
        "n_fft is 128 but 160 in the weights",
        "bias is True but False in the weights",
        "num_blocks is 7 but the weights have 2 scales",
        "optimizer is 'adamw', which goes with GroupNorm, but BatchNorm in the weights",
    ]
    assert conv_tdf_contradictions({}, CONV) == []


def test_norms_without_statistics() -> None:
    """A dictionary of trained parameters alone is no network; GroupNorm needs a word that it is one."""
    bare = replace(CONV, norm=None)
    for told in ({}, ConvOracle().hyper):
        (problem,) = conv_tdf_contradictions(told, bare)
        assert "no running_mean" in problem
    assert conv_tdf_norm({}, CONV) == conv_tdf_norm({}, bare) == "BatchNorm"
    assert conv_tdf_norm({"optimizer": "adamw"}, bare) == "GroupNorm2"
    (problem,) = tfc_tdf_contradictions({"model": {"norm": "BatchNorm"}}, TFC)
    assert "no running_mean" in problem


def test_every_contradiction_of_a_yaml() -> None:
    told = TfcOracle().yaml()
    told["audio"] |= {"dim_f": 128}
    told["model"] |= {"growth": 4, "scale": (2, 4), "num_subbands": 2, "norm": "LayerNorm", "act": "silu"}
    told["model"] |= {"name": "epoch_10.ckpt", "dropout": 0.1, "num_scales": None}
    assert tfc_tdf_contradictions(told, TFC) == [
        "growth is 4 but 6 in the weights",
        "scale is [2, 4] but [2, 2] in the weights",
        "num_subbands is 2 but 4 in the weights",
        "dim_f is 128 but 256 in the weights",
        "norm is 'LayerNorm', known are InstanceNorm, BatchNorm and GroupNormN with a number N",
        "act is 'silu', known are gelu, relu and eluA with a number A",
        "unknown model options dropout",
    ]
    assert tfc_tdf_contradictions({}, TFC) == []
    assert tfc_tdf_contradictions({"model": {"norm": "InstanceNorm"}}, replace(TFC, norm="BatchNorm")) == [
        "norm is InstanceNorm but BatchNorm in the weights"
    ]
    for channels in (3, "2"):
        (problem,) = tfc_tdf_contradictions({"audio": {"num_channels": channels}}, TFC)
        assert problem == f"num_channels is {channels!r} but the weights have 16 inputs"


def test_names_of_norms_and_activations() -> None:
    assert [norm_groups(name) for name in ("GroupNorm4", "GroupNorm", "GroupNorm0", "InstanceNorm")] == [
        4, None, None, None,
    ]  # fmt: skip
    assert [elu_alpha(name) for name in ("elu0.5", "elu1", "elu", "gelu")] == [0.5, 1.0, None, None]


@pytest.mark.parametrize(
    ("key", "tensor", "problem"),
    [
        ("first_conv.0.weight", None, "has no first_conv.0.weight"),
        ("first_conv.0.weight", torch.zeros(6, 3, 1, 1), "first_conv.0.weight is for 3 channels"),
        (
            "final_conv.0.weight",
            torch.zeros(6, 6, 1, 1),
            "final_conv.0.weight has 6 rows, not a multiple of 4",
        ),
        (
            "encoding_blocks.0.tfc.H.0.0.weight",
            torch.zeros(6, 6, 2, 2),
            "a convolution over 2, an even number",
        ),
        ("encoding_blocks.0.tdf.0.weight", torch.zeros(65, 64), "has 64 inputs for 65 outputs"),
        ("window", torch.hamming_window(160), "window is not a Hann window"),
        ("window", torch.tensor(1.0), "window is not a Hann window"),
        ("freq_pad", torch.ones(1, 4, 17, 16), "freq_pad is not a spectrogram of zeros"),
        ("freq_pad", torch.zeros(4), "freq_pad is not a spectrogram of zeros"),
    ],
)
def test_damaged_conv_tdf_is_refused_by_key(key: str, tensor: torch.Tensor | None, problem: str) -> None:
    state = ConvOracle().state()
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    with pytest.raises(CheckpointError, match=problem) as error:
        conv_tdf_shapes(FILE, state)
    assert str(error.value).startswith("model.ckpt: not a whole MDX-Net or MDX23C: ")
    assert "\n" not in str(error.value)


def test_damaged_tfc_tdf_is_refused_by_key() -> None:
    state = TfcOracle().network().state_dict()
    state["final_conv.2.weight"] = torch.zeros(24, 8, 1, 1)
    with pytest.raises(CheckpointError, match=r"final_conv.2.weight has 24 rows, not a multiple of 16"):
        tfc_tdf_shapes(FILE, state)
