"""fp16 is safe, and measured: typed graphs against the fp32 network, loud, silent and with outliers."""

import dataclasses

import numpy as np
import pytest
from oracle import Oracle

from rofo.export.errors import ParityError
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph import gates
from rofo.export.graph.diagnosis import layer_outputs, layer_parity
from rofo.export.graph.gates import check_typed
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.trace import run_network, write_onnx
from rofo.export.model import Model
from rofo.export.plan.plan import PlanOptions
from rofo.export.source import read_source

KINDS = [
    PlanOptions(),
    PlanOptions(attention="bf16"),
    PlanOptions(precision="bf16"),
    PlanOptions(precision="fp32"),
]


class Made:
    """A small checkpoint, maybe made bad: its plain network, and what that makes of the gate's chunks."""

    def __init__(self, folder, change=None):
        checkpoint, config = Oracle("bs_roformer", {"depth": 1, "dim": 32}).write(folder)
        source = read_source(checkpoint)
        if change:
            change(source.state)
        self.folder, self.family = folder, find_family(source)
        self.model = Model.of(self.family, source, describe(self.family, source, config), "tiny")
        self.plain = load_network(self.family, source, self.model.facts)
        run = self.family.original(source, self.model.facts, self.plain)
        self.wanted = gates.reference(self.model, run, keeps_silence=True)

    def engine(self, form):
        return self.family.engine(self.plain, self.model.facts, form)

    def graph(self, options):
        folder = self.folder / options.types.replace(" ", "_")
        folder.mkdir()
        write_onnx(self.engine(options.form), self.model.tensors(1), folder / "typed.onnx", typed=True)
        return folder / "typed.onnx"

    def layers(self, path):
        """Layer by layer, how far the graph is from the network, on loud music."""
        loud = self.wanted.cases[0].inputs
        exact = self.engine(PlanOptions().form.exact)
        return layer_parity(path, loud, layer_outputs(exact, loud, self.family.stages))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def graphs(good):
    return {options.types: good.graph(options) for options in KINDS}


@pytest.mark.parametrize(("options", "least"), list(zip(KINDS, (55, 55, 40, 100), strict=True)), ids=str)
def test_typed_graphs_pass_and_say_how_far_they_are(good, graphs, options, least):
    parity = check_typed(graphs[options.types], "tiny", options, good.wanted)
    assert (parity.backend, parity.precision) == ("tensorrt-rtx", options.precision)
    assert parity.measured_on == "typed graph on the CPU"
    assert parity.keeps_silence
    assert parity.snr_db > least


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_noise_that_peaks_at_1000_is_as_near_as_music(good, graphs, options):
    noise = np.random.default_rng(1).standard_normal(good.model.tensors(1).inputs["mix"]).astype(np.float32)
    noise = {"mix": noise * np.float32(1000 / np.abs(noise).max())}
    wanted = run_network(good.plain, noise)["stems"]
    assert gates.snr_db(wanted, RoundedGraph(graphs[options.types]).run(noise)[0]["stems"]) > 35


def test_every_layer_is_measured_and_the_bad_one_shows(good, graphs, tmp_path):
    layers = good.layers(graphs["fp16"])
    assert [layer.module for layer in layers] == [
        "band_split",
        *(f"layers.0.over_{axis}.blocks.{i}" for axis in ("frames", "bands") for i in (0, 1)),
        "mask_estimators.0",
    ]
    assert all(layer.snr_db > 50 for layer in layers)

    def spoil(state):
        state["layers.0.1.layers.0.1.net.1.bias"][:4] = 3e5

    bad = Made(tmp_path, spoil)
    found = {layer.module: layer.snr_db for layer in bad.layers(bad.graph(PlanOptions()))}
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
    case = Made(tmp_path, change)
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
    case = Made(tmp_path, change)
    assert check_typed(case.graph(options), "tiny", options, case.wanted).snr_db > 35


def test_a_graph_of_other_weights_is_below_the_gate(good, graphs):
    loud = good.wanted.cases[0]
    louder = {"stems": loud.outputs["stems"] * np.float32(1.03)}
    other = dataclasses.replace(good.wanted, cases=(dataclasses.replace(loud, outputs=louder),))
    with pytest.raises(ParityError, match=r"is 30\.\d dB from the network on loud music, the gate is 35 dB"):
        check_typed(graphs["fp16"], "tiny", PlanOptions(), other)


def test_a_graph_that_hums_is_refused(good, graphs, monkeypatch):
    real = RoundedGraph.run

    def humming(self, inputs):
        outputs, *rest = real(self, inputs)
        return {"stems": outputs["stems"] + np.float32(1e-12)}, *rest

    monkeypatch.setattr(RoundedGraph, "run", humming)
    with pytest.raises(ParityError, match="not silent on silence"):
        check_typed(graphs["fp16"], "tiny", PlanOptions(), good.wanted)
