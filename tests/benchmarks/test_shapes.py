"""Seeded public shapes: files that the exporter reads, the same every time."""

import pytest
import torch
import yaml

from rofo.benchmarks.cli import shape
from rofo.benchmarks.shapes import SHAPES, write_shape
from rofo.export.families import describe, find_family, load_network
from rofo.export.source import read_source

# The least of each that is still the same network.
SMALLEST = {
    "small": {"dim": 8},
    "mdx23c": {"num_channels": 4, "growth": 4, "num_scales": 2},
    "kim": {"num_blocks": 3, "g": 4, "dim_f": 64, "dim_t": 16, "n_fft": 160, "hop_length": 40},
    "htdemucs": {"channels": 8, "bottom_channels": 16, "t_layers": 2, "dconv_comp": 4, "t_heads": 2},
    "hdemucs": {"channels": 8},
    "scnet": {"dims": [4, 8, 8, 8], "num_dplayer": 2},
    "scnet_xl": {"dims": [4, 8, 8, 8], "num_dplayer": 2},
    "scnet_tran": {"dims": [4, 8, 8, 8], "num_dplayer": 2, "tran_heads": 1, "tran_dim_head": 64},
    "bsrnn": {"feature_dim": 4, "num_repeat": 1},
    "bsrnn_attention": {"feature_dim": 4, "num_repeat": 1},
}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_exporter_knows_what_is_written(name, tmp_path):
    checkpoint, config = write_shape(name, tmp_path, **SMALLEST[name])
    assert checkpoint.name == f"{name}.ckpt"
    source = read_source(checkpoint)
    family = find_family(source)
    facts = describe(family, source, config).require()
    assert facts["sample_rate"] == 44100
    network = load_network(family, source, facts)
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_the_same_name_gives_the_same_weights(tmp_path):
    one, two = (torch.load(write_shape("small", tmp_path / n)[0]) for n in ("a", "b"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_every_shape_is_named_in_the_help():
    told = " ".join(shape.help.split())
    assert all(name in told for name in SHAPES)


def test_changes_are_in_the_yaml(tmp_path):
    _, config = write_shape("small", tmp_path, depth=2)
    assert yaml.safe_load(config.read_text())["model"]["depth"] == 2
    assert SHAPES["small"].config["model"]["depth"] == 1
