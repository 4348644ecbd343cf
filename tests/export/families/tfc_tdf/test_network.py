"""Our TFC-TDF v3 against pymss-core's, option by option, from files."""

from pathlib import Path

import pytest
import torch
from loaded import load
from mdx_oracle import TfcOracle

from rofo.export.errors import CheckpointError


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
