import pytest
from pymss_core.modules.bs_roformer import BSConformer, BSRoformer, BSRoformerHyperACE, MelBandRoformer
from pymss_core.modules.legacy_demucs import LegacyConvTasNet
from pymss_core.modules.look2hear import Apollo
from pymss_core.modules.scnet import SCNet

from rofo.export.families.bandit import Bandit
from rofo.export.families.unsupported import described_by, unsupported_network

TINY = {
    "dim": 16,
    "depth": 1,
    "stereo": True,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "heads": 2,
    "dim_head": 8,
}
TINY_BS = {**TINY, "freqs_per_bands": (2, 31), "stft_n_fft": 64, "stft_win_length": 64, "stft_hop_length": 16}


@pytest.mark.parametrize(
    "network",
    [
        lambda: BSRoformer(**TINY_BS),
        lambda: BSRoformer(**TINY_BS, use_pope=True),
        lambda: BSRoformer(**TINY_BS, use_shared_bias=True),
        lambda: MelBandRoformer(**TINY, num_bands=8, stft_n_fft=128, stft_win_length=128, stft_hop_length=32),
        lambda: BSConformer(**{k.replace("transformer", "conformer"): v for k, v in TINY_BS.items()}),
        lambda: BSRoformerHyperACE(**TINY),
    ],
    ids=["bs", "pope", "shared bias", "mel", "conformer", "HyperACE"],
)
def test_supported_networks_pass(network):
    assert unsupported_network(network().state_dict()) is None


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("SCNet", lambda: SCNet(dims=[4, 8, 8, 8], num_dplayer=2)),
        ("Apollo", lambda: Apollo(sr=44100, win=20, feature_dim=16, layer=1)),
        ("Conv-TasNet", lambda: LegacyConvTasNet(sources=["a", "b"], N=8, B=4, H=8, X=2, R=1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_public_networks_are_recognised(name, network):
    assert unsupported_network(network().state_dict()) == name


ROFORMER = ["band_split.to_features.0.1.weight", "final_norm.gamma"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("layers.0.0.layers.0.0.branch.to_qkv.weight", "Roformer with hyper-connections"),
        ("mask_estimators.0.refiner.layers.0.weight", "Roformer with a refiner"),
        ("sink_tokens", "Roformer with windowed sink attention"),
        ("layers.0.0.mamba.A_log", "Mamba network"),
        ("1.band_split.to_features.0.1.weight", "chain of two Roformers"),
    ],
)
def test_roformer_variants_are_recognised_by_one_key(key, name):
    assert unsupported_network([*ROFORMER, key]) == name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("separator.0.time_net.norm.weight", "BSRNN"),
        ("encoder.0.layers.1.conv.weight", "Demucs of another kind"),
        ("encoder.3.conv.weight", "Demucs of another kind"),
        ("separator_mask.0.band_net.norm.weight", "BS-Mamba2"),
        ("mask_generator.conv_layers.0.conv_layers.0.weight", "Conv-TasNet"),
        ("masker.TCN.0.shared_block.0.weight", "Conv-TasNet"),
    ],
)
def test_families_known_from_their_documented_keys(key, name):
    assert unsupported_network(["x.weight", key]) == name


def test_unknown_keys_are_no_family():
    assert unsupported_network(["fc.weight", "fc.bias"]) is None


class Mine:
    """A family whose yaml files say "mine", or have an option of that name."""

    name = "mine"
    yaml_types = frozenset({"mine"})
    yaml_hints = (frozenset({"my_option"}),)


class Other(Mine):
    name = "other"
    yaml_types = frozenset({"other"})
    yaml_hints = (frozenset({"num_subbands", "num_scales"}),)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"model": {"my_option": 1}}, None),
        ({"model": {"my_option": 1}, "training": {"model_type": "mine"}}, None),
        ({"model": {"my_option": 1}, "training": {"model_type": "bs_conformer"}}, "bs_conformer"),
        ({"model": {"freq_bins": 1025, "embed_dim": 256}}, "conformer"),
        ({"model": {"num_subbands": 4, "num_scales": 5}}, "other"),
        ({"model": {"band_SR": [0.1], "dims": [4]}}, "SCNet"),
        ({"model": "htdemucs", "htdemucs": {}}, "htdemucs"),
        ({"cls": "Bandit", "kwargs": {"n_sqm_modules": 8}}, "bandit"),
        ({"model": {"band_specs": "musical"}}, "bandit"),
        ({"model": 3}, None),
        ({}, None),
    ],
)
def test_yaml_of_another_network(config, name):
    assert described_by(config, Mine(), [Mine(), Other(), Bandit()]) == name
