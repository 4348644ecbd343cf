"""FP8 plans: what is written, how it is measured, what the gate leaves out, and that nothing takes them."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oracle import Oracle

from rofo.engines import EngineSettings
from rofo.engines.choice import engine_file
from rofo.errors import EngineLoadError, UsageError
from rofo.export import ExportOptions, ParityError, export_checkpoint
from rofo.export.families import describe, find_family, load_network
from rofo.export.graph import fp8
from rofo.export.graph.gates import loud_chunk, reference
from rofo.export.graph.operands import in_e4m3
from rofo.export.graph.quantise import Quantiser, measured_ranges
from rofo.export.graph.rounded import RoundedGraph
from rofo.export.graph.trace import write_onnx
from rofo.export.model import Model
from rofo.export.plan.plan import PlanOptions
from rofo.export.source import read_source
from rofo.manifest import load_manifest, manifest_path

E4M3 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
PLAN = PlanOptions(precision="fp8", batch=2)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A small checkpoint and its yaml."""
    return Oracle("bs_roformer", {"depth": 1, "dim": 32}).write(tmp_path_factory.mktemp("given"))


def export(given, folder, stage=lambda _: None, **changes):
    options = {"output": folder / "tiny", "config": given[1], "onnx": False, "plan": PLAN, **changes}
    return export_checkpoint(given[0], ExportOptions(**options), stage)


@pytest.fixture(scope="module")
def made(given, tmp_path_factory):
    """A plan in fp16, and in a second export one in FP8 beside it; the report of that."""
    folder, stages = tmp_path_factory.mktemp("made"), []
    export(given, folder, plan=PlanOptions(batch=2))
    return export(given, folder, stages.append), stages


def test_the_plan_lies_beside_the_others_and_the_manifest_knows_both(made):
    report, stages = made
    assert [path.name for path in report.files] == ["tiny.fp8.plan", "tiny.json"]
    manifest = load_manifest(report.files[0])
    fp16, own = manifest.engines
    assert (fp16.file, fp16.precision, own.file, own.precision) == (
        "tiny.plan",
        "fp16",
        "tiny.fp8.plan",
        "fp8",
    )
    assert (own.rest, own.kept, own.batch) == ("fp16", (), 2)
    figures = {parity.precision: parity for parity in manifest.parity}
    assert 35 <= figures["fp8"].snr_db < 45 < figures["fp16"].snr_db
    assert figures["fp8"].measured_on == "typed graph on the CPU" and figures["fp8"].keeps_silence
    assert any("calibrating FP8 on the demo mix" in stage for stage in stages)


def test_another_export_in_fp16_leaves_what_was_measured_in_fp8(made):
    manifest = load_manifest(made[0].files[0])
    again = replace(manifest, engines=manifest.engines[:1], parity=())
    assert [parity.precision for parity in manifest.joined(again).parity] == ["fp8"]


# The arithmetic


def graph_of_one_product(folder, weight):
    """x -> fp16 -> x @ weight, as `types.product` writes it."""
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["x"], ["x_16"], to=half),
        helper.make_node("Cast", ["x_16"], ["x_32"], to=full),
        helper.make_node("Cast", ["w"], ["w_32"], to=full),
        helper.make_node("MatMul", ["x_32", "w_32"], ["product"], name="m/MatMul_0"),
        helper.make_node("Cast", ["product"], ["product_16"], to=half),
        helper.make_node("Cast", ["product_16"], ["y"], to=full),
    ]
    ends = [
        helper.make_tensor_value_info(name, full, (5, width))
        for name, width in zip("xy", weight.shape, strict=True)
    ]
    graph = helper.make_graph(nodes, "one", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    folder.mkdir()
    onnx.save(model, folder / "one.onnx")
    return folder / "one.onnx"


def test_both_operands_are_rounded_to_e4m3_with_powers_of_two(tmp_path):
    rng = np.random.default_rng(3)
    weight = (0.1 * rng.standard_normal((64, 24))).astype(np.float16)
    x = rng.standard_normal((5, 64)).astype(np.float32)
    x[0, 0] = 7.0
    plain = graph_of_one_product(tmp_path / "plain", weight)
    quantiser = Quantiser(plain, measured_ranges(plain, [{"x": x}]), in_e4m3)
    (tmp_path / "fp8").mkdir()
    quantiser.write(tmp_path / "fp8" / "one.onnx", ["w"])
    # 7 * 2 / 448 and max |w| / 448 are no powers of two; the next ones are.
    step, weight_step = 2.0**-5, 2.0 ** np.ceil(np.log2(np.abs(weight).max() / 448))
    louder = x.copy()
    louder[1] *= 30 / np.abs(x[1]).max()  # beyond what was seen: it ends at 448 steps

    def e4m3(values, step):
        return (np.clip(values / step, -448, 448)).astype(E4M3).astype(np.float32) * step

    wanted = e4m3(louder.astype(np.float16), step) @ e4m3(weight.astype(np.float32), weight_step)
    found = RoundedGraph(tmp_path / "fp8" / "one.onnx").run({"x": louder})[0]["y"]
    assert np.abs(found - wanted).max() <= 2**-10 * np.abs(wanted).max()
    exact = louder @ weight.astype(np.float32)
    assert np.abs(found - exact)[2:].max() > 2**-8 * np.abs(exact)[2:].max()
    assert np.abs(found - exact)[1].max() > np.abs(found - wanted)[1].max() * 10


def test_weights_are_stored_in_one_byte_and_their_other_form_is_gone(tmp_path):
    plain = graph_of_one_product(tmp_path / "plain", np.ones((32, 16), np.float16))
    (tmp_path / "fp8").mkdir()
    Quantiser(plain, measured_ranges(plain, [{"x": np.ones((5, 32), np.float32)}]), in_e4m3).write(
        tmp_path / "fp8" / "one.onnx", ["w"]
    )
    graph = onnx.load(tmp_path / "fp8" / "one.onnx").graph
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    assert [tensor.data_type for tensor in matrices] == [TensorProto.FLOAT8E4M3FN]
    assert sum(node.op_type == "Cast" for node in graph.node) == 6  # the weight's and the source's now follow


# The gate


@pytest.fixture(scope="module")
def typed(given, tmp_path_factory):
    """Its typed graph in fp16, one chunk to calibrate on, and what the network makes of the test chunks."""
    source = read_source(given[0])
    family = find_family(source)
    model = Model.of(family, source, describe(family, source, given[1]), "tiny")
    network = load_network(family, source, model.facts)
    graph = tmp_path_factory.mktemp("typed") / "typed.onnx"
    write_onnx(family.engine(network, model.facts, PLAN.form), model.tensors(1), graph, typed=True)
    run = family.original(source, model.facts, network)
    return graph, [loud_chunk(model)], reference(model, run, keeps_silence=True)


def choose(typed, wanted, stage=lambda _: None):
    graph, chunks, _ = typed
    return fp8.choose_fp8(graph, "tiny", chunks, wanted, stage)


def test_without_a_reference_it_is_all_products_of_attention_and_feed_forward(typed):
    chosen = choose(typed, None)
    assert chosen.kept == ()
    assert chosen.names == tuple(
        f"layers.0.over_{axis}.blocks.{name}.weight"
        for axis in ("frames", "bands")
        for name in ("0.attention.project", "0.attention.to_out", "1.widen", "1.narrow")
    )


def test_the_costliest_products_stay_in_fp16_until_the_gate_holds(typed, monkeypatch):
    real, bad = fp8.typed_decibels, "layers.0.over_bands.blocks.1.narrow.weight"

    def worse(path, wanted):
        """One product costs far more than it really does."""
        names = {t.name.rpartition("/")[0] for t in onnx.load(path).graph.initializer if "/e4m3" in t.name}
        return np.array([20.0]) if bad in names else real(path, wanted)

    monkeypatch.setattr(fp8, "typed_decibels", worse)
    stages = []
    chosen = choose(typed, typed[2].only(0), stages.append)
    assert bad in chosen.kept and chosen.names and len(chosen.kept) < 8
    written = onnx.load(chosen.write(typed[0])).graph
    assert sum(node.op_type == "QuantizeLinear" for node in written.node) == len(chosen.names)
    assert any("measuring 8 times 1 of them alone" in stage for stage in stages)


def test_where_nothing_passes_nothing_is_written(typed, monkeypatch):
    monkeypatch.setattr(fp8, "typed_decibels", lambda path, wanted: np.full(len(wanted.cases), 20.0))
    with pytest.raises(ParityError, match=r"no choice of products in FP8 passes .* try --precision fp16"):
        choose(typed, typed[2])


def test_a_network_without_such_products_is_refused(typed, monkeypatch):
    monkeypatch.setattr(fp8, "measured_ranges", lambda path, chunks: {})
    with pytest.raises(ParityError, match="no product that FP8 is for; nothing was written"):
        choose(typed, None)


def test_calibrating_needs_openvino_and_says_so(typed, monkeypatch):
    def missing():
        raise ImportError

    monkeypatch.setattr("rofo.export.graph.quantise.openvino_core", missing)
    with pytest.raises(EngineLoadError, match=r"no OpenVINO to calibrate 8 bits with; pip install 'rofo"):
        choose(typed, None)


# Mistakes


@pytest.mark.parametrize("gpu", ["rtx3090", "portable"])
def test_a_card_without_fp8_is_refused_before_any_work(given, tmp_path, gpu):
    with pytest.raises(UsageError, match="does not multiply in FP8; use --precision fp16"):
        export(given, tmp_path, plan=PlanOptions(precision="fp8", gpu=gpu))


# Which engine is opened


def chosen(path, precision="auto", backend="auto"):
    return engine_file(path, load_manifest(path), EngineSettings(backend, precision)).name


def test_auto_never_takes_it(made):
    plan, described = made[0].files
    assert chosen(described) == chosen(described, backend="tensorrt-rtx") == "tiny.plan"
    assert chosen(described.with_name("tiny.plan")) == "tiny.plan"
    assert chosen(described, "fp8") == chosen(described.with_name("tiny.plan"), "fp8") == "tiny.fp8.plan"
    assert chosen(plan) == "tiny.fp8.plan" and manifest_path(plan) == described


def test_where_it_is_the_only_engine_it_must_be_asked_for(made, tmp_path):
    raw = json.loads(made[0].files[1].read_text())
    raw["engines"] = raw["engines"][1:]
    alone = tmp_path / "tiny.json"
    alone.write_text(json.dumps(raw))
    with pytest.raises(EngineLoadError, match=r"only engine is in fp8, .*; use --precision fp8"):
        chosen(alone)
    assert chosen(alone, "fp8") == "tiny.fp8.plan"
