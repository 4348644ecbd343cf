"""Published .onnx files of MDX-Nets: their weights end up in our network; what is no MDX-Net is refused."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from loaded import load, spectrum
from mdx_oracle import ConvOracle, write_onnx
from onnx import TensorProto, helper, numpy_helper
from oracle import snr_db

import rofo.export.families.mdx_net.onnx as module
from rofo.errors import EngineLoadError
from rofo.export.errors import CheckpointError
from rofo.export.export import ExportOptions, export_checkpoint
from rofo.export.families.mdx_net.onnx import read_graph, run_original
from rofo.export.source import read_source

DIM_F, DIM_T, N_FFT = 64, 16, 2048
GIVEN = {"n_fft": N_FFT, "stems": ("vocals",), "compensate": 1.035}
MIN_DB = 110.0

FRAMES = {name: {0: "batch", 3: "frames"} for name in ("input", "output")}
PRESERVED = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}


def with_constants(model: onnx.ModelProto) -> None:
    """The weights as nodes, and identities between the operators."""
    graph = model.graph
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
    for node in graph.node:
        inner = node.output[0] + "/inner"
        nodes += [node, helper.make_node("Identity", [inner], [node.output[0]])]
        node.output[0] = inner
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)


def with_other_names(model: onnx.ModelProto) -> None:
    names = {"input": "stems", "output": "mix"}
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]


def with_fixed_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def with_dropout(model: onnx.ModelProto) -> None:
    """At rest, behind the first convolution's norm."""
    relu = model.graph.node[1]
    model.graph.node.insert(1, helper.make_node("Dropout", [relu.input[0]], ["kept"]))
    model.graph.node[2].input[0] = "kept"


GROUP_NORM = {"optimizer": "adamw"}
NO_LINEAR = {"bn": None}

# Hyper-parameters of the network, options of the exporter, and what is done to its file.
Given = tuple[dict[str, object], dict[str, object], Callable[[onnx.ModelProto], None] | None]
FILES: dict[str, Given] = {
    "public": ({}, {}, None),
    "opset 9": ({}, {"opset_version": 9}, None),
    "opset 17": ({}, {"opset_version": 17}, None),
    "today's exporter": ({}, {"dynamo": True, "opset_version": 18}, None),
    "unfolded": ({}, PRESERVED, None),
    "open frames": ({}, {"dynamic_axes": FRAMES}, None),
    "weights as inputs": ({}, {"keep_initializers_as_inputs": True}, None),
    "constants": ({}, PRESERVED, with_constants),
    "names": ({}, {}, with_other_names),
    "dropout": ({}, {}, with_dropout),
    "fixed batch": ({}, {}, with_fixed_batch),
    "four scales": ({"num_blocks": 9, "l": 3}, {}, None),
    "linear bias": ({"bias": True, "bn": 0}, {}, None),
    "no linear layers": (NO_LINEAR, {}, None),
    "group norm": (GROUP_NORM, {}, None),
    "group norm unfolded": (GROUP_NORM, {**PRESERVED, "dynamic_axes": FRAMES}, None),
    "group norm of today": (GROUP_NORM, {"dynamo": True, "opset_version": 21}, None),
}


def write(path: Path, name: str) -> Path:
    hyper, options, change = FILES[name]
    if options.get("dynamo"):
        options = {**options, "dynamic_axes": None}
    write_onnx(ConvOracle(hyper).network(), path, DIM_F, DIM_T, **options)
    if change is not None:
        model = onnx.load(path)
        change(model)
        onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_the_network_gives_what_the_file_gives(name: str, tmp_path: Path) -> None:
    case = load(write(tmp_path / "net.onnx", name), chunk_seconds=15 * 1024 / 44100, **GIVEN)
    assert case.facts.get("fixed_frames") == (None if FILES[name][1].get("dynamic_axes") else DIM_T)
    mix = spectrum(case.shape, 300.0, batch=2)
    wanted = case.family.original(case.source, case.facts, case.network)({"mix": mix})["stems"]
    assert snr_db(wanted, case.run(mix)) > MIN_DB


def test_all_weights_are_those_of_the_file(tmp_path: Path) -> None:
    """Where nothing was folded, to the bit; a folded norm is one that does nothing."""
    path = write(tmp_path / "net.onnx", "unfolded")
    state = read_graph(path, read_source(path).graph).state
    wanted = {k: v for k, v in ConvOracle().network().state_dict().items() if "num_batches" not in k}
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], wanted[key]) for key in wanted)
    folded = load(write(tmp_path / "folded.onnx", "public"), **GIVEN)
    engine = onnx.load(folded.write(tmp_path))
    weights = {
        numpy_helper.to_array(t).tobytes() for t in onnx.load(tmp_path / "folded.onnx").graph.initializer
    }
    convolutions = [node.input[1] for node in engine.graph.node if node.op_type == "Conv"][:-1]
    made = {t.name: numpy_helper.to_array(t).tobytes() for t in engine.graph.initializer}
    assert len(convolutions) == 13 and all(made[name] in weights for name in convolutions)


def test_the_original_is_packed_as_torch_packs_it(tmp_path: Path) -> None:
    """L.re, L.im, R.re, R.im; the file's own network is the judge."""
    path = write(tmp_path / "net.onnx", "public")
    mix = spectrum((2, DIM_T, 81, 2), 100.0)
    packed = torch.from_numpy(mix).permute(0, 1, 4, 3, 2).reshape(1, 4, 81, DIM_T)[:, :, :DIM_F].clone()
    packed[:, :, :3] = 0
    with torch.inference_mode():
        out = 1.035 * ConvOracle().network()(packed).numpy()
    got = run_original(path, read_source(path).graph, mix, dim_f=DIM_F, zero_bins=3, gain=1.035)
    for channel, (side, part) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert snr_db(out[0, channel].T, got[0, 0, side, :, :DIM_F, part]) > MIN_DB
    assert (got[..., DIM_F:, :] == 0).all()


def test_an_export_is_compared_with_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "net.onnx", "public")
    report = export_checkpoint(path, ExportOptions(given=GIVEN, output=tmp_path / "made", batch=2))
    assert report.parity[0].snr_db > MIN_DB - 10 and report.manifest.engines[0].batch == 2
    real = module._run
    monkeypatch.setattr(module, "_run", lambda *args: real(*args) * np.float32(1.01))
    with pytest.raises(Exception, match=r"40\.1 dB from the network"):
        export_checkpoint(path, ExportOptions(given=GIVEN, output=tmp_path / "other"))


def test_openvino_runs_the_original_where_onnxruntime_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "net.onnx", "public")
    graph, mix, real = read_source(path).graph, spectrum((2, DIM_T, 81, 2), 100.0, batch=2), module.find_spec
    wanted = run_original(path, graph, mix, dim_f=DIM_F, zero_bins=3, gain=1.0)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    got = run_original(path, graph, mix, dim_f=DIM_F, zero_bins=3, gain=1.0)
    assert snr_db(wanted, got) > MIN_DB
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(EngineLoadError, match="nothing to run it with for comparison; pip install"):
        run_original(path, graph, mix, dim_f=DIM_F, zero_bins=3, gain=1.0)


def test_frames_the_original_does_not_take_are_an_error_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", "public")
    with pytest.raises(CheckpointError, match="it does not run") as error:
        run_original(
            path, read_source(path).graph, spectrum((2, 8, 81, 2), 1.0), dim_f=DIM_F, zero_bins=0, gain=1
        )
    assert "\n" not in str(error.value)


# What is no MDX-Net, one change to a file of one each


def node_of(m: onnx.ModelProto, operator: str, place: int = 0) -> onnx.NodeProto:
    return [node for node in m.graph.node if node.op_type == operator][place]


def attribute(m: onnx.ModelProto, operator: str, name: str, value: object, place: int = 0) -> None:
    node = node_of(m, operator, place)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def stated(m: onnx.ModelProto, value: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> None:
    values = {v.name: v for v in (*m.graph.input, *m.graph.output)}
    values[value].CopyFrom(helper.make_tensor_value_info(value, kind, shape))


def second_input(m: onnx.ModelProto) -> None:
    m.graph.input.append(helper.make_tensor_value_info("waveform", TensorProto.FLOAT, [1, 2]))


def second_output(m: onnx.ModelProto) -> None:
    name = node_of(m, "Relu").output[0]
    m.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 6, DIM_F, DIM_T]))


def unused_bomb(m: onnx.ModelProto) -> None:
    """An operator that doubles its input thirty times, for nothing."""
    names = [node_of(m, "Relu").output[0], *(f"twice{i}" for i in range(30))]
    m.graph.node.extend(helper.make_node("Concat", [a, a], [b], axis=2) for a, b in pairwise(names))


def recurrent(m: onnx.ModelProto) -> None:
    node_of(m, "Relu").op_type = "LSTM"


def no_convolution(m: onnx.ModelProto) -> None:
    del m.graph.node[:]
    m.graph.node.append(helper.make_node("Relu", ["input"], ["output"]))


def skipped_relu(m: onnx.ModelProto) -> None:
    relu = node_of(m, "Relu")
    relu.op_type = "Identity"


def other_skip(m: onnx.ModelProto) -> None:
    """The stream of another scale is multiplied."""
    one, other = (node_of(m, "Mul", i) for i in (0, 1))
    one.input[1], other.input[1] = other.input[1], one.input[1]


def norm_of_the_batch(m: onnx.ModelProto) -> None:
    attribute(m, "BatchNormalization", "training_mode", 1)


def live_dropout(m: onnx.ModelProto) -> None:
    with_dropout(m)
    m.graph.node[1].input.extend(["", "on"])


def newer_opset(m: onnx.ModelProto) -> None:
    m.opset_import[0].version = 24


OF_AN_MDX_NET = "an MDX-Net's (batch, 4, bins, frames)"
FAULTS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "second input": (second_input, "2 inputs, 1 outputs, an MDX-Net has one of each"),
    "second output": (second_output, "1 inputs, 2 outputs, an MDX-Net has one of each"),
    "three channels": (lambda m: stated(m, "input", ["batch", 3, 64, 16]), OF_AN_MDX_NET),
    "rank three": (lambda m: stated(m, "input", ["batch", 4, 48]), OF_AN_MDX_NET),
    "open bins": (lambda m: stated(m, "input", ["batch", 4, "bins", 16]), OF_AN_MDX_NET),
    "batch of three": (lambda m: stated(m, "input", [3, 4, 64, 16]), OF_AN_MDX_NET),
    "huge input": (lambda m: stated(m, "input", ["batch", 4, 1 << 40, 16]), OF_AN_MDX_NET),
    "half": (lambda m: stated(m, "input", ["b", 4, 64, 16], TensorProto.FLOAT16), "takes or gives FLOAT16"),
    "other output": (lambda m: stated(m, "output", ["batch", 4, 64, 7]), "makes (batch, 4, 64, 7) of"),
    "padding": (lambda m: attribute(m, "Conv", "pads", [10**9] * 4), "a Conv that is not MDX-Net's"),
    "dilation": (lambda m: attribute(m, "Conv", "dilations", [2, 2], 2), "a Conv that is not MDX-Net's"),
    "groups": (lambda m: attribute(m, "Conv", "group", 2, 2), "a Conv that is not MDX-Net's"),
    "epsilon": (lambda m: attribute(m, "BatchNormalization", "epsilon", 0.1), "a norm whose epsilon is not"),
    "axes": (lambda m: attribute(m, "Transpose", "perm", [0, 2, 1, 3]), "a Transpose of other axes"),
    "bomb": (unused_bomb, "a Concat that no MDX-Net has at twice0"),
    "recurrent": (recurrent, "no MDX-Net has operators such as LSTM"),
    "no convolution": (no_convolution, "has no convolution"),
    "no activation": (skipped_relu, "no Relu behind"),
    "other skip": (other_skip, "a Mul that reads something else"),
    "training": (norm_of_the_batch, "exported in training mode"),
    "live dropout": (live_dropout, "exported in training mode"),
    "newer opset": (newer_opset, "of opset 24, known are those to 23"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    return onnx.load(write(tmp_path_factory.mktemp("plain") / "net.onnx", "opset 17"))


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_mdx_net_is_named(name: str, plain: onnx.ModelProto, tmp_path: Path) -> None:
    fault, wanted = FAULTS[name]
    damaged, path = onnx.ModelProto.FromString(plain.SerializeToString()), tmp_path / "net.onnx"
    fault(damaged)
    with pytest.raises(CheckpointError) as error:
        read_graph(path, damaged)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and "; " in message
    assert wanted in message, message


def test_hostile_names_do_not_reach_the_terminal(plain: onnx.ModelProto, tmp_path: Path) -> None:
    for change in ("op_type", "output"):
        hostile = onnx.ModelProto.FromString(plain.SerializeToString())
        if change == "op_type":
            hostile.graph.node[0].op_type = "\x1b[2J\nConv"
        else:
            hostile.graph.node[0].output[0] = "\x1b[2J\nConv"
        with pytest.raises(CheckpointError) as error:
            read_graph(tmp_path / "net.onnx", hostile)
        assert r"\x1b[2J\nConv" in str(error.value) and str(error.value).isprintable()
