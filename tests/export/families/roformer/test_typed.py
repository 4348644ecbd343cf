"""fp16 is safe, and measured: typed graphs against the fp32 network, loud, silent and with outliers."""

import dataclasses

import numpy as np
import pytest
from oracle import Oracle

from rofo.export.errors import ParityError
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph.diagnosis import layer_outputs, layer_parity
from rofo.export.graph.gates import check_typed, loud_chunk, reference
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.trace import write_onnx
from rofo.export.model import Model
from rofo.export.plan.plan import PlanOptions
from rofo.export.source import read_source

KINDS = [
    PlanOptions(),
    PlanOptions(attention="bf16"),
    PlanOptions(precision="bf16"),
    PlanOptions(precision="fp32"),
]


class Tiny:
    """A small checkpoint, maybe made bad, and what its plain network makes of the test chunks."""

    def __init__(self, folder, change=None):
        checkpoint, config = Oracle("bs_roformer", {"depth": 1, "dim": 32}).write(folder)
        source = read_source(checkpoint)
        if change:
            change(source.state)
        family, self.folder = find_family(source), folder
        self.model = Model.of(family, source, describe(family, source, config), "tiny")
        self.network = load_network(family, source, self.model.facts)
        self.wanted = reference(
            self.model, family.original(source, self.model.facts, self.network), keeps_silence=True
        )

    def engine(self, form):
        return self.model.family.engine(self.network, self.model.facts, form)

    def graph(self, options):
        folder = self.folder / options.types.replace(" ", "_")
        folder.mkdir()
        write_onnx(self.engine(options.form), self.model.tensors(1), folder / "typed.onnx", typed=True)
        return folder / "typed.onnx"

    def layers(self, graph):
        loud = loud_chunk(self.model)
        outputs = layer_outputs(self.engine(PlanOptions().form.exact), loud, self.model.family.stages)
        return layer_parity(graph, loud, outputs)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Tiny(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def graphs(good):
    return {options.types: good.graph(options) for options in KINDS}


@pytest.mark.parametrize(("options", "least"), list(zip(KINDS, (55, 55, 40, 100), strict=True)), ids=str)
def test_typed_graphs_pass_and_say_how_far_they_are(good, graphs, options, least):
    parity = check_typed(graphs[options.types], "tiny", options, good.wanted)
    assert (parity.backend, parity.precision) == ("tensorrt-rtx", options.precision)
    assert parity.measured_on == "typed graph on the CPU"
    assert parity.snr_db > least


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

    bad = Tiny(tmp_path, spoil)
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
    case = Tiny(tmp_path, change)
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
    case = Tiny(tmp_path, change)
    assert check_typed(case.graph(options), "tiny", options, case.wanted).snr_db > 35


def test_a_graph_of_other_weights_is_below_the_gate(good, graphs):
    louder = [
        dataclasses.replace(case, outputs={n: x * np.float32(1.03) for n, x in case.outputs.items()})
        for case in good.wanted.cases
    ]
    with pytest.raises(ParityError, match=r"is 30\.\d dB from the network on loud music, the gate is 35 dB"):
        check_typed(
            graphs["fp16"], "tiny", PlanOptions(), dataclasses.replace(good.wanted, cases=tuple(louder))
        )


def test_a_graph_that_hums_is_refused(good, graphs, monkeypatch):
    real = RoundedGraph.run

    def humming(self, inputs):
        outputs, *rest = real(self, inputs)
        hum = np.float32(0 if any(x.any() for x in inputs.values()) else 1e-6)
        return {name: x + hum for name, x in outputs.items()}, *rest

    monkeypatch.setattr(RoundedGraph, "run", humming)
    with pytest.raises(ParityError, match="not silent on silence"):
        check_typed(graphs["fp16"], "tiny", PlanOptions(), good.wanted)
