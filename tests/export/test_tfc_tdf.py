"""Our TFC-TDF v3 against pymss-core's, option by option, from public state dicts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden.checkpoints import state_dict
from golden.files import read
from golden.seeded import song as golden_song
from mdx_oracle import HOP, TfcOracle, through_engines, through_network
from oracle import snr_db

from rofo.errors import CheckpointError
from rofo.export.mdx_config import TfcTdfConfig
from rofo.export.mdx_settings import tfc_tdf_config
from rofo.export.mdx_shapes import tfc_tdf_shapes
from rofo.export.networks.tfc_tdf import TfcTdf

NETWORKS = read("msst_tfc_tdf").cases
VARIANTS = {
    "plain": TfcOracle(),
    "BatchNorm": TfcOracle({"norm": "BatchNorm"}),
    "GroupNorm2": TfcOracle({"norm": "GroupNorm2"}),
    "elu": TfcOracle({"act": "elu0.3"}),
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


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_msst(name: str) -> None:
    case = NETWORKS[name]
    audio, model = case.facts["config"]["audio"], case.facts["config"]["model"]
    state, wanted = state_dict(case), case.outputs["stems"]
    asked = tfc_tdf_config(
        tfc_tdf_shapes(Path("model.ckpt"), state),
        sample_rate=44100,
        channels=audio["num_channels"],
        n_fft=audio["n_fft"],
        hop_length=audio["hop_length"],
        norm=model["norm"],
        act=model["act"],
    )
    ours = TfcTdf(asked, state, audio["dim_t"])
    assert not state
    chunk = golden_song(wanted.shape[-1], audio["num_channels"], silent=(0.7, 1))
    assert snr_db(wanted, through_network(ours, asked, chunk)) > 110


def test_ema_without_counters_is_enough() -> None:
    oracle = TfcOracle({"norm": "BatchNorm"})
    state = {k: v for k, v in oracle.network().state_dict().items() if not k.endswith("num_batches_tracked")}
    TfcTdf(config(oracle), state, oracle.dim_t)


@pytest.mark.parametrize("name", VARIANTS)
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
