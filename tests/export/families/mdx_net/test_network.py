"""Our MDX-Net against its definition as kuielab's code and UVR's have it, option by option, from files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from loaded import load
from mdx_oracle import ConvOracle, through_network
from oracle import snr_db, song

from rofo.export.errors import CheckpointError

VARIANTS = {
    "new": ConvOracle(),
    "old": ConvOracle(layout="old"),
    "GroupNorm": ConvOracle({"optimizer": "adamw"}),
    "GroupNorm, old": ConvOracle({"optimizer": "adamw", "bias": True}, layout="old"),
    "bias": ConvOracle({"bias": True}),
    "one linear layer": ConvOracle({"bn": 0}),
    "one linear layer with bias": ConvOracle({"bn": 0, "bias": True}),
    "no linear layers": ConvOracle({"bn": None}),
    "mono": ConvOracle({"dim_c": 2}),
    "4 scales, 3 convolutions of 5": ConvOracle({"num_blocks": 9, "l": 3, "k": 5}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_definition(name: str, tmp_path: Path) -> None:
    oracle = VARIANTS[name]
    case = load(oracle.write(tmp_path), scheme="trim")
    assert not case.source.state
    chunk = song(oracle.hyper["dim_c"] // 2, oracle.chunk)
    assert snr_db(oracle.audio(chunk), through_network(case.network, case.facts, chunk)) > 100


def test_four_stems_and_an_average_of_weights(tmp_path: Path) -> None:
    oracle = ConvOracle(num_stems=4, ema=True)
    case = load(oracle.write(tmp_path), stems=("a", "b", "c", "d"), scheme="outer")
    chunk = song(2, oracle.chunk)
    assert snr_db(oracle.audio(chunk), through_network(case.network, case.facts, chunk)) > 100


@pytest.mark.parametrize("compensate", [1.0, 1.035, 1.75])
def test_what_uvr_does_around_it(compensate: float, tmp_path: Path) -> None:
    oracle = ConvOracle()
    case = load(oracle.write(tmp_path), compensate=compensate)
    # The silenced bins must hold something that is missed.
    chunk = song(2, oracle.chunk) + np.float32(0.3)
    wanted = oracle.audio(chunk, zero_bins=3, compensate=compensate)
    assert snr_db(oracle.audio(chunk), wanted) < 60
    assert snr_db(wanted, through_network(case.network, case.facts, chunk)) > 100


def test_every_bad_key_is_named_at_once(tmp_path: Path) -> None:
    oracle = ConvOracle()
    state = oracle.state()
    del state["bottleneck_block.tdf.1.weight"]
    state["us.0.0.weight"] = torch.zeros(1, 2)
    state["ds.0.surprise"] = torch.zeros(1)
    torch.save({"state_dict": state, "hyper_parameters": oracle.hyper}, tmp_path / "m.ckpt")
    with pytest.raises(CheckpointError) as error:
        load(tmp_path / "m.ckpt")
    assert "missing: bottleneck_block.tdf.1.weight" in str(error.value)
    assert "us.0.0.weight is 1x2, should be 18x12x2x2" in str(error.value)
    assert "unexpected: ds.0.surprise" in str(error.value)
