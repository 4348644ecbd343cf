"""Our TFC-TDF v3 against pymss-core's, option by option, from files."""

from pathlib import Path

import pytest
import torch
from loaded import load
from mdx_oracle import TfcOracle, through_network
from oracle import snr_db, song

from rofo.export.errors import CheckpointError

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


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_oracle(name: str, tmp_path: Path) -> None:
    oracle = VARIANTS[name]
    case = load(*oracle.write(tmp_path))
    assert not case.source.state
    chunk = song(oracle.channels, oracle.chunk)
    assert snr_db(oracle.audio(chunk), through_network(case.network, case.facts, chunk)) > 100


def test_an_average_without_counters_is_enough(tmp_path: Path) -> None:
    oracle = TfcOracle({"norm": "BatchNorm"})
    path, yaml = oracle.write(tmp_path)
    state = {k: v for k, v in oracle.network().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, path)
    load(path, yaml)


def test_every_bad_key_is_named_at_once(tmp_path: Path) -> None:
    oracle = TfcOracle()
    path, yaml = oracle.write(tmp_path)
    state = dict(oracle.network().state_dict())
    del state["bottleneck_block.blocks.1.tdf.3.bias"]
    state["decoder_blocks.0.tfc_tdf.blocks.0.tfc1.2.weight"] = torch.zeros(1, 2)
    state["first_conv.bias"] = torch.zeros(8)
    torch.save(state, path)
    with pytest.raises(CheckpointError) as error:
        load(path, yaml)
    assert "missing: bottleneck_block.blocks.1.tdf.3.bias" in str(error.value)
    assert "tfc1.2.weight is 1x2, should be 14x28x3x3" in str(error.value)
    assert "unexpected: first_conv.bias" in str(error.value)
