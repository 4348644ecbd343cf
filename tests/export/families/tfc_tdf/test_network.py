"""Our TFC-TDF v3 against pymss-core's, option by option, from public state dicts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mdx_oracle import HOP, TfcOracle, through_engines, through_network
from oracle import snr_db, song

from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.config import TfcTdfConfig
from rofo.export.families.mdx_net.settings import tfc_tdf_config
from rofo.export.families.mdx_net.shapes import tfc_tdf_shapes
from rofo.export.families.tfc_tdf.network import TfcTdf

VARIANTS = {
    "plain": TfcOracle(),
    "BatchNorm": TfcOracle({"norm": "BatchNorm"}),
    "GroupNorm2": TfcOracle({"norm": "GroupNorm2"}),
    "relu": TfcOracle({"act": "relu"}),
    "elu": TfcOracle({"act": "elu0.3"}),
    "one band": TfcOracle({"num_subbands": 1}, dim_f=64, n_fft=256),
    "two bands": TfcOracle({"num_subbands": 2}, dim_f=128),
    "bins only": TfcOracle({"scale": [1, 2]}),
    "frames by 2, bins by 4": TfcOracle({"scale": [2, 4], "num_scales": 1, "bottleneck_factor": 2}),
    "one target": TfcOracle(stems=("vocals",)),
    "four targets": TfcOracle(stems=("bass", "drums", "other", "vocals")),
    "mono": TfcOracle(channels=1),
    "three blocks, three scales": TfcOracle(
        {"num_blocks_per_scale": 3, "num_scales": 3}, dim_f=512, n_fft=1024, dim_t=32
    ),
}


def config(oracle: TfcOracle) -> TfcTdfConfig:
    return tfc_tdf_config(
        tfc_tdf_shapes(Path("model.ckpt"), oracle.network().state_dict()),
        sample_rate=44100,
        channels=oracle.channels,
        n_fft=oracle.n_fft,
        hop_length=HOP,
        norm=oracle.model["norm"],
        act=oracle.model["act"],
    )


def network(oracle: TfcOracle) -> TfcTdf:
    return TfcTdf(config(oracle), dict(oracle.network().state_dict()), oracle.dim_t)


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_oracle(name: str) -> None:
    oracle = VARIANTS[name]
    state = dict(oracle.network().state_dict())
    ours = TfcTdf(config(oracle), state, oracle.dim_t)
    assert not state
    chunk = song(oracle.channels, oracle.chunk)
    assert snr_db(oracle.audio(chunk), through_network(ours, config(oracle), chunk)) > 100


def test_ema_without_counters_is_enough() -> None:
    oracle = TfcOracle({"norm": "BatchNorm"})
    state = {k: v for k, v in oracle.network().state_dict().items() if not k.endswith("num_batches_tracked")}
    TfcTdf(config(oracle), state, oracle.dim_t)


@pytest.mark.parametrize("name", ["plain", "BatchNorm", "GroupNorm2", "elu"])
def test_engines_agree(name: str, tmp_path: Path) -> None:
    oracle = VARIANTS[name]
    ours = network(oracle)
    torch.manual_seed(0)
    mix = torch.randn(2, oracle.channels, oracle.dim_t, oracle.n_fft // 2 + 1, 2)
    with torch.inference_mode():
        wanted = ours(mix).numpy()
    assert wanted.shape == (2, len(oracle.stems), *mix.shape[1:])
    for backend, got in through_engines(ours, mix, tmp_path).items():
        assert snr_db(wanted, got) > 100, backend


def test_silence_stays_silent() -> None:
    """Biases stand only before what is multiplied by the first convolution, which has none."""
    oracle = TfcOracle()
    with torch.inference_mode():
        assert (network(oracle)(torch.zeros(1, 2, oracle.dim_t, 321, 2)) == 0).all()


def test_sizes_that_cannot_be_divided() -> None:
    oracle = TfcOracle()
    asked, state = config(oracle), oracle.network().state_dict()
    with pytest.raises(
        CheckpointError, match=r"15 frames does not divide by 4; choose --chunk 0.021769, .* 16"
    ):
        TfcTdf(asked, dict(state), 15)
    odd = TfcOracle(dim_f=248)
    with pytest.raises(CheckpointError, match="62 bins do not divide by 4 for 2 scales"):
        TfcTdf(config(odd), dict(odd.network().state_dict()), 16)
    with pytest.raises(CheckpointError, match="GroupNorm3 cannot divide the 8 channels of encoder"):
        TfcTdf(replace(asked, norm="GroupNorm3"), dict(state), 16)


def test_every_bad_key_is_named_at_once() -> None:
    oracle = TfcOracle()
    asked, state = config(oracle), dict(oracle.network().state_dict())
    del state["bottleneck_block.blocks.1.tdf.3.bias"]
    state["decoder_blocks.0.tfc_tdf.blocks.0.tfc1.2.weight"] = torch.zeros(1, 2)
    state["first_conv.bias"] = torch.zeros(8)
    with pytest.raises(CheckpointError) as error:
        TfcTdf(asked, state, oracle.dim_t)
    assert "missing: bottleneck_block.blocks.1.tdf.3.bias" in str(error.value)
    assert "tfc1.2.weight is 1x2, should be 14x28x3x3" in str(error.value)
    assert "unexpected: first_conv.bias" in str(error.value)
