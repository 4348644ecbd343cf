"""fp16 is safe, and measured: typed graphs against the fp32 network, loud, silent and with outliers."""

import dataclasses

import numpy as np
import pytest
import torch
from oracle import Oracle

from rofo.errors import ParityError
from rofo.export import typed_parity, verify
from rofo.export.checkpoint import load_checkpoint
from rofo.export.config import resolve_config
from rofo.export.layer_outputs import layer_outputs
from rofo.export.networks.roformer import Roformer
from rofo.export.onnx_graph import run_network, write_onnx
from rofo.export.plan import PlanOptions
from rofo.export.rounded import RoundedGraph
from rofo.export.typed_parity import check_typed, layer_parity
from rofo.manifest import ChunkSize, Stft

KINDS = [
    PlanOptions(),
    PlanOptions(attention="bf16"),
    PlanOptions(precision="bf16"),
    PlanOptions(precision="fp32"),
]


class Case:
    """A small checkpoint, maybe made bad, with its network's output on the loud chunk."""

    def __init__(self, folder, change=None, family="bs_roformer"):
        oracle = Oracle(family, {"depth": 1, "dim": 32})
        checkpoint, config = oracle.write(folder)
        loaded = load_checkpoint(checkpoint)
        self.config = resolve_config(loaded, yaml=config)
        self.state = dict(loaded.state)
        if change:
            change(self.state)
        network = self.config.network
        self.name, self.sample_rate, self.channels = "tiny", network.sample_rate, network.channels
        self.stft = Stft(network.n_fft, network.hop_length)
        self.chunk = ChunkSize(self.config.chunk, self.stft.frames(self.config.chunk))
        self.folder = folder
        mix = verify.loud_chunk(self)
        stems = run_network(self.network(PlanOptions().form.exact), torch.from_numpy(mix)).numpy()
        self.wanted = verify.Reference(mix, stems, keeps_silence=True)

    def network(self, form):
        return Roformer(self.config.network, dict(self.state), self.chunk.frames, form)

    def graph(self, options):
        folder = self.folder / options.types.replace(" ", "_")
        folder.mkdir()
        write_onnx(self.network(options.form), self.wanted.mix.shape, folder / "typed.onnx", typed=True)
        return folder / "typed.onnx"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def graphs(good):
    return {options.types: good.graph(options) for options in KINDS}


@pytest.mark.parametrize(("options", "least"), list(zip(KINDS, (55, 55, 40, 100), strict=True)), ids=str)
def test_typed_graphs_pass_and_say_how_far_they_are(good, graphs, options, least):
    parity = check_typed(graphs[options.types], "tiny", options, good.wanted)
    assert (parity.backend, parity.precision) == ("tensorrt-rtx", options.precision)
    assert parity.measured_on == "typed graph on the CPU"
    assert parity.snr_db > least


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_noise_that_peaks_at_1000_is_as_near_as_music(good, graphs, options):
    noise = typed_parity._noise(good.wanted.mix.shape)
    assert np.abs(noise).max() == pytest.approx(1000)
    wanted = run_network(good.network(options.form.exact), torch.from_numpy(noise)).numpy()
    assert verify.snr_db(wanted, RoundedGraph(graphs[options.types]).run(noise)[0]) > 35


def test_the_arrangement_for_tensorrt_is_the_same_network(good):
    plain = Roformer(good.config.network, dict(good.state), good.chunk.frames)
    turned = run_network(plain, torch.from_numpy(good.wanted.mix)).numpy()
    assert verify.snr_db(turned, good.wanted.stems) > 110


def test_every_layer_is_measured_and_the_bad_one_shows(good, graphs, tmp_path):
    outputs = layer_outputs(good.network(PlanOptions().form.exact), good.wanted.mix)
    layers = layer_parity(graphs["fp16"], good.wanted.mix, outputs)
    assert [layer.module for layer in layers] == [
        "band_split",
        *(f"layers.0.over_{axis}.blocks.{i}" for axis in ("frames", "bands") for i in (0, 1)),
        "mask_estimators.0",
    ]
    assert all(layer.snr_db > 50 for layer in layers)

    def spoil(state):
        state["layers.0.1.layers.0.1.net.1.bias"][:4] = 3e5

    bad = Case(tmp_path, spoil)
    outputs = layer_outputs(bad.network(PlanOptions().form.exact), bad.wanted.mix)
    found = {x.module: x.snr_db for x in layer_parity(bad.graph(PlanOptions()), bad.wanted.mix, outputs)}
    assert found["layers.0.over_bands.blocks.0"] > 50
    assert found["layers.0.over_bands.blocks.1"] == -np.inf
    assert found["mask_estimators.0"] < 35


# Checkpoints made bad on purpose


def wide_v(state):
    """Values of attention beyond fp16: sums overflow, in bf16 they do not."""
    weight = state["layers.0.0.layers.0.0.to_qkv.weight"]
    weight[-32:] *= 2000
    state["layers.0.0.layers.0.0.to_out.0.weight"] /= 2000


def outliers(state):
    """Activations beyond 65504 between the two products of a feed-forward, in a few channels."""
    state["layers.0.0.layers.0.1.net.1.weight"][:3] *= 1e5
    state["layers.0.0.layers.0.1.net.4.weight"][:, :3] /= 1e5


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (wide_v, PlanOptions(), "attention"),
        (outliers, PlanOptions(), "in fp16 it is not finite on loud music"),
        (outliers, PlanOptions(attention="bf16"), "in fp16 with bf16 attention it is not finite"),
    ],
)
def test_a_bad_checkpoint_is_refused_with_what_to_try(change, options, message, tmp_path):
    case = Case(tmp_path, change)
    with pytest.raises(ParityError, match=message) as caught:
        check_typed(case.graph(options), "tiny", options, case.wanted)
    text = str(caught.value)
    assert text.startswith("tiny: ") and "\n" not in text and "nothing was written" in text
    cures = {PlanOptions(): "--attention bf16", PlanOptions(attention="bf16"): "--precision bf16 or fp32"}
    assert cures[options] in text


@pytest.mark.parametrize(
    ("change", "options"),
    [(wide_v, PlanOptions(attention="bf16")), (outliers, PlanOptions(precision="bf16"))],
)
def test_what_the_message_tells_to_try_helps(change, options, tmp_path):
    case = Case(tmp_path, change)
    assert check_typed(case.graph(options), "tiny", options, case.wanted).snr_db > 35


def test_a_graph_of_other_weights_is_below_the_gate(good, graphs):
    other = dataclasses.replace(good.wanted, stems=good.wanted.stems * np.float32(1.03))
    with pytest.raises(ParityError, match=r"is 30\.\d dB from the network on loud music, the gate is 35 dB"):
        check_typed(graphs["fp16"], "tiny", PlanOptions(), other)


def test_a_graph_that_hums_is_refused(good, graphs, monkeypatch):
    real = RoundedGraph.run

    def humming(self, mix):
        stems, *rest = real(self, mix)
        return stems + np.float32(1e-6), *rest

    monkeypatch.setattr(RoundedGraph, "run", humming)
    with pytest.raises(ParityError, match="not silent on silence"):
        check_typed(graphs["fp16"], "tiny", PlanOptions(), good.wanted)
