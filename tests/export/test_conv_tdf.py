"""Our MDX-Net against its definition in plain torch, option by option, from public state dicts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from golden.checkpoints import state_dict
from golden.files import read
from golden.seeded import song as golden_song
from mdx_oracle import ConvOracle, through_engines, through_network, write_onnx
from oracle import snr_db, song
from torch import Tensor

from rofo.errors import CheckpointError
from rofo.export.mdx_config import ConvTdfConfig
from rofo.export.mdx_settings import conv_tdf_config, conv_tdf_norm
from rofo.export.mdx_shapes import conv_tdf_shapes
from rofo.export.networks.conv_tdf import ConvTdf
from rofo.export.networks.packing import pack, unpack

TRAINED = [(file, name) for file in ("mdx_net", "audio_separator_conv_tdf") for name in read(file).cases]
# What no public tool has in its class, by the definition.
VARIANTS = {
    "mono": ConvOracle({"dim_c": 2}),
    "four stems": ConvOracle(num_stems=4),
}


def config_of(
    hyper: dict[str, Any], state: dict[str, Tensor], *, zero_bins: int = 0, compensate: float = 1.0
) -> ConvTdfConfig:
    shapes = conv_tdf_shapes(Path("model.ckpt"), state)
    return conv_tdf_config(
        shapes,
        sample_rate=44100,
        n_fft=hyper["n_fft"],
        hop_length=hyper["hop_length"],
        dim_f=hyper["dim_f"],
        norm=conv_tdf_norm(hyper, shapes),
        zero_bins=zero_bins,
        compensate=compensate,
    )


def config(oracle: ConvOracle, **use: float) -> ConvTdfConfig:
    return config_of(oracle.hyper, oracle.state(), **use)


@pytest.mark.parametrize(("file", "name"), TRAINED)
def test_equals_the_class_it_was_trained_with(file: str, name: str) -> None:
    case = read(file).cases[name]
    hyper, state, wanted = case.facts["hyper_parameters"], state_dict(case), case.outputs["stems"]
    asked = config_of(hyper, state)
    network = ConvTdf(asked, state, hyper["dim_t"])
    assert not state
    chunk = golden_song(wanted.shape[-1], silent=(0.7, 1))
    assert snr_db(wanted, through_network(network, asked, chunk)) > 110


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_definition(name: str) -> None:
    oracle = VARIANTS[name]
    state = oracle.state()
    network = ConvTdf(config(oracle), state, oracle.hyper["dim_t"])
    assert not state
    chunk = song(oracle.hyper["dim_c"] // 2, oracle.chunk)
    assert snr_db(oracle.audio(chunk), through_network(network, config(oracle), chunk)) > 100


def test_ema_without_what_is_not_trained_is_enough() -> None:
    case = read("mdx_net").cases["plain"]
    left_out = ("num_batches_tracked", "window", "freq_pad")
    state = {key: value for key, value in state_dict(case).items() if not key.endswith(left_out)}
    ConvTdf(config_of(case.facts["hyper_parameters"], state), state, 16)
    assert not state


def test_batch_norms_are_folded_where_a_convolution_is_before_them() -> None:
    """The linear layers act on another axis than the norm: the scales behind these are all that is left."""
    oracle = ConvOracle()
    network = ConvTdf(config(oracle), oracle.state(), oracle.hyper["dim_t"])
    names = [type(module).__name__ for module in network.modules()]
    assert names.count("ScaleShift") == names.count("Linear") == 2 * 5


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw"}])
def test_engines_agree(options: dict[str, Any], tmp_path: Path) -> None:
    oracle = ConvOracle(options, num_stems=4)
    asked = config(oracle, zero_bins=3, compensate=1.035)
    network = ConvTdf(asked, oracle.state(), oracle.hyper["dim_t"])
    mix = torch.randn(2, asked.channels, oracle.hyper["dim_t"], 81, 2)
    with torch.inference_mode():
        wanted = network(mix).numpy()
    assert wanted.shape == (2, oracle.num_stems, *mix.shape[1:])
    for backend, got in through_engines(network, mix, tmp_path).items():
        assert snr_db(wanted, got) > 100, backend


def test_graph_never_turns_frames_and_bins(tmp_path: Path) -> None:
    """One transpose takes the parts of a complex number apart, one puts them together."""
    oracle = ConvOracle()
    network = ConvTdf(config(oracle), oracle.state(), oracle.hyper["dim_t"])
    through_engines(network, torch.zeros(1, 2, 16, 81, 2), tmp_path)
    nodes = [node.op_type for node in onnx.load(tmp_path / "network.onnx").graph.node]
    assert nodes.count("Transpose") == 2
    assert "BatchNormalization" not in nodes


def test_published_onnx_is_the_same_network(tmp_path: Path) -> None:
    oracle = ConvOracle()
    path, mix = tmp_path / "public.onnx", torch.randn(3, 2, 16, 81, 2)
    write_onnx(oracle.network(), path, oracle.hyper["dim_f"], oracle.hyper["dim_t"])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    packed = pack(mix, oracle.hyper["dim_f"]).transpose(-1, -2).numpy()
    (got,) = session.run(["output"], {"input": packed})
    stems = unpack(torch.from_numpy(got).transpose(-1, -2), channels=2, bins=81)
    with torch.inference_mode():
        wanted = ConvTdf(config(oracle), oracle.state(), oracle.hyper["dim_t"])(mix)
    assert snr_db(wanted.numpy(), stems.numpy()) > 100


def test_packing_counts_channels_parts_and_sub_bands() -> None:
    mix = torch.arange(2 * 3 * 9 * 2.0).reshape(1, 2, 3, 9, 2)
    packed = pack(mix, 8, subbands=4)
    assert packed.shape == (1, 16, 3, 2)
    for channel, part, band in ((0, 0, 0), (0, 0, 3), (0, 1, 2), (1, 0, 1), (1, 1, 0)):
        where = (channel * 2 + part) * 4 + band
        assert (packed[0, where] == mix[0, channel, :, 2 * band : 2 * band + 2, part]).all()
    stems = unpack(torch.cat((packed, 10 * packed), dim=1), channels=2, bins=9, subbands=4)
    assert (stems[0, 0, :, :, :8] == mix[0, :, :, :8]).all()
    assert (stems[0, 1] == 10 * stems[0, 0]).all()
    assert (stems[..., 8:, :] == 0).all()


def test_sizes_that_cannot_be_halved() -> None:
    oracle = ConvOracle()
    with pytest.raises(
        CheckpointError, match=r"18 frames does not divide by 4; choose --chunk 0.021769, .* 16"
    ):
        ConvTdf(config(oracle), oracle.state(), 18)
    odd = ConvOracle({"dim_f": 62, "bn": 2})
    with pytest.raises(CheckpointError, match="62 bins do not divide by 4"):
        ConvTdf(config(odd), odd.state(), 16)
    with pytest.raises(CheckpointError, match="sees 64 bins, n_fft 100 has 51"):
        ConvTdf(replace(config(oracle), n_fft=100), oracle.state(), 16)


def test_every_bad_key_is_named_at_once() -> None:
    oracle = ConvOracle()
    state, asked = oracle.state(), config(oracle)
    del state["bottleneck_block.tdf.1.running_var"]
    state["us.0.0.weight"] = torch.zeros(1, 2)
    state["ds.0.surprise"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as error:
        ConvTdf(asked, state, 16)
    assert "missing: bottleneck_block.tdf.1.running_var" in str(error.value)
    assert "us.0.0.weight is 1x2, should be 18x12x2x2" in str(error.value)
    assert "unexpected: ds.0.surprise" in str(error.value)
