"""Surgery on an MDX-Net's .onnx file: the engine gives what the file itself gives, packed and unpacked."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from mdx_oracle import ConvOracle, write_onnx
from onnx import helper, numpy_helper
from torch import nn

import rofo.export.families.mdx_net.onnx as module
from rofo.errors import EngineLoadError
from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.onnx import MdxGraph, read_mdx_onnx, run_original, write_contract
from rofo.export.graph import trace as onnx_graph

DIM_F, DIM_T = 64, 16
N_FFT = 160  # 81 bins, of which 17 are above the network's
BINS = N_FFT // 2 + 1
MIN_DB = 110.0
MAKER = "/home/someone/train.py"

FRAMES = {name: {0: "batch", 3: "frames"} for name in ("input", "output")}
PRESERVED = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False}

Snr = Callable[[np.ndarray, np.ndarray], float]


class Unturned(nn.Module):
    """No transposes, a convolution used twice, a norm before one with padding, and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.down = nn.Conv2d(8, 8, 2, stride=2, groups=4)
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2)
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        for norm in self.norms:
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.3, 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.first(x))
        half = self.down(x)
        wide = self.norms[2](self.up(self.norms[1](half) + half))
        return self.last(self.norms[3](torch.relu(wide)))


class Skipping(nn.Module):
    """A skip around the transposes, whose places must therefore stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1)
        self.inner = nn.Conv2d(6, 6, (3, 1), padding=(1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(x * self.inner(x.transpose(-1, -2)).transpose(-1, -2))


class Sided(nn.Module):
    """Convolutions outside the transposes that are not the same along both axes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.first = nn.Conv2d(4, 6, (3, 1), padding=(1, 0))
        self.last = nn.Conv2d(6, 4, (1, 3), padding=(0, 1))
        self.inner = nn.Conv2d(6, 6, (3, 1), padding=(1, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.inner(self.first(x).transpose(-1, -2)).transpose(-1, -2))


def with_constants(path: Path) -> None:
    """The weights as nodes, and identities between the operators."""
    model = onnx.load(path)
    graph = model.graph
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in graph.initializer]
    for node in graph.node:
        inner = node.output[0] + "/inner"
        nodes += [node, helper.make_node("Identity", [inner], [node.output[0]])]
        node.output[0] = inner
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(copies)
    onnx.save(model, path)


def with_contract_names(path: Path) -> None:
    """Names that the engine needs for itself, and traces of the machine that made it."""
    model = onnx.load(path)
    model.doc_string = model.graph.doc_string = model.producer_name = model.graph.name = MAKER
    model.metadata_props.add(key="made by", value=MAKER)
    names = {"input": "stems", "output": "mix"}
    taken = ["pack/Slice", "pack/Reshape", "unpack/Transpose", "network/mix"]
    names |= dict(zip((node.output[0] for node in model.graph.node[3:]), taken, strict=False))
    for node in model.graph.node:
        node.doc_string = MAKER
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names[value.name]
    del model.graph.value_info[:]
    onnx.save(model, path)


def with_fixed_batch(path: Path) -> None:
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path)


def with_dropout(path: Path) -> None:
    """At rest, behind the first convolution's norm."""
    model = onnx.load(path)
    relu = model.graph.node[1]
    dropout = helper.make_node("Dropout", [relu.input[0]], ["kept"])
    relu.input[0] = "kept"
    model.graph.node.insert(1, dropout)
    onnx.save(model, path)


BATCH_NORM: dict[str, object] = {}
GROUP_NORM = {"optimizer": "adamw"}

# Hyper-parameters or class of the network, options of the exporter, and what is done to its file.
Given = tuple[dict[str, object] | type[nn.Module], dict[str, object], Callable[[Path], None] | None]
FILES: dict[str, Given] = {
    "public": (BATCH_NORM, {}, None),
    "opset11": (BATCH_NORM, {"opset_version": 11}, None),
    "opset17": (BATCH_NORM, {"opset_version": 17}, None),
    "unfolded": (BATCH_NORM, PRESERVED, None),
    "open frames": (BATCH_NORM, {"dynamic_axes": FRAMES}, None),
    "weights as inputs": (BATCH_NORM, {"keep_initializers_as_inputs": True}, None),
    "constants": (BATCH_NORM, PRESERVED, with_constants),
    "names": (BATCH_NORM, {}, with_contract_names),
    "dropout": (BATCH_NORM, {}, with_dropout),
    "fixed batch": (BATCH_NORM, {}, with_fixed_batch),
    "linear bias": ({"bias": True, "bn": 0}, {}, None),
    "group norm": (GROUP_NORM, {}, None),
    "group norm unfolded": (GROUP_NORM, {**PRESERVED, "dynamic_axes": FRAMES}, None),
    "unturned": (Unturned, PRESERVED, None),
    "skipping": (Skipping, {}, None),
    "sided": (Sided, {}, None),
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], MdxGraph]:
    """The file of that name in FILES."""
    made: dict[str, MdxGraph] = {}

    def graph(name: str) -> MdxGraph:
        if name not in made:
            made_of, options, change = FILES[name]
            path = tmp_path_factory.mktemp("published") / "net.onnx"
            network = ConvOracle(made_of).network() if isinstance(made_of, dict) else made_of()
            write_onnx(network, path, DIM_F, DIM_T, **options)
            if change is not None:
                change(path)
            made[name] = read_mdx_onnx(path)
        return made[name]

    return graph


def write(graph: MdxGraph, path: Path, **options: float) -> Path:
    usual = {"batch": 1, "frames": DIM_T, "n_fft": N_FFT, "zero_bins": 3, "compensate": 1.035}
    assert write_contract(graph, path, **{**usual, **options}) is None  # no file of weights
    return path


def loud(batch: int = 1, frames: int = DIM_T) -> np.ndarray:
    rng = np.random.default_rng(5)
    return 30 * rng.standard_normal((batch, 2, frames, BINS, 2), np.float32)


def run(path: Path, mix: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["stems"], {"mix": mix})[0]


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("name", FILES)
def test_the_engine_gives_what_the_file_gives(
    name: str, read: Callable[[str], MdxGraph], tmp_path: Path, snr_db: Snr
) -> None:
    graph = read(name)
    assert (graph.dim_f, graph.dim_t) == (DIM_F, None if "dynamic_axes" in FILES[name][1] else DIM_T)
    batch = graph.batch or 2
    path = write(graph, tmp_path / "engine.onnx", batch=batch)
    got = run(path, loud(batch))
    wanted = run_original(graph, loud(batch), zero_bins=3, compensate=1.035)
    assert got.shape == wanted.shape == (batch, 1, 2, DIM_T, BINS, 2)
    assert snr_db(wanted, got) > MIN_DB


def test_the_engine_keeps_the_contract(read: Callable[[str], MdxGraph], tmp_path: Path) -> None:
    model = onnx.load(write(read("names"), tmp_path / "engine.onnx", batch=2))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 23)]
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"mix": [2, 2, DIM_T, BINS, 2], "stems": [2, 1, 2, DIM_T, BINS, 2]}
    for value in model.graph.value_info:
        assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim)
    assert MAKER.encode() in read("names").path.read_bytes()
    assert MAKER.encode() not in (tmp_path / "engine.onnx").read_bytes()


def test_the_original_is_packed_as_torch_packs_it(read: Callable[[str], MdxGraph], snr_db: Snr) -> None:
    """L.re, L.im, R.re, R.im; the file's own network is the judge."""
    mix = loud()
    packed = torch.from_numpy(mix).permute(0, 1, 4, 3, 2).reshape(1, 4, BINS, DIM_T)[:, :, :DIM_F].clone()
    packed[:, :, :3] = 0
    with torch.inference_mode():
        out = 1.035 * ConvOracle().network()(packed).numpy()
    got = run_original(read("public"), mix, zero_bins=3, compensate=1.035)
    for channel, (side, part) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert snr_db(out[0, channel].T, got[0, 0, side, :, :DIM_F, part]) > MIN_DB


@pytest.mark.parametrize("name", ["public", "group norm"])
def test_silenced_bins_and_bins_above_the_network_count_for_nothing(
    name: str, read: Callable[[str], MdxGraph], tmp_path: Path
) -> None:
    path = write(read(name), tmp_path / "engine.onnx")
    mix = loud()
    stems = run(path, mix)
    assert (stems[..., DIM_F:, :] == 0).all() and (stems[..., :DIM_F, :] != 0).mean() > 0.99
    changed = mix.copy()
    changed[..., :3, :], changed[..., DIM_F:, :] = 7, 7
    np.testing.assert_array_equal(run(path, changed), stems)
    for bin_ in (3, DIM_F - 1):
        changed = mix.copy()
        changed[..., bin_, :] = 7
        assert (run(path, changed) != stems).any()


def test_without_zero_bins_and_gain_nothing_is_added(
    read: Callable[[str], MdxGraph], tmp_path: Path, snr_db: Snr
) -> None:
    graph = read("public")
    plain = write(graph, tmp_path / "plain.onnx", zero_bins=0, compensate=1.0, n_fft=2 * DIM_F)
    usual = write(graph, tmp_path / "usual.onnx")
    assert operators(usual) - operators(plain) == {"Mul": 1, "Pad": 1}
    exact = write(graph, tmp_path / "exact.onnx", zero_bins=0, compensate=1.0, n_fft=2 * DIM_F - 2)
    assert operators(plain) - operators(exact) == {"Slice": 1, "Pad": 1}
    mix = loud()[..., : DIM_F + 1, :]
    wanted = run_original(graph, mix, zero_bins=0, compensate=1.0)
    assert snr_db(wanted, run(plain, mix)) > MIN_DB
    wanted = run_original(graph, mix, zero_bins=0, compensate=1.5)
    assert snr_db(wanted, 1.5 * run(plain, mix)) > MIN_DB


def test_transposes_are_cancelled_where_that_is_exact(
    read: Callable[[str], MdxGraph], tmp_path: Path
) -> None:
    """Two belong to packing and unpacking; a GroupNorm after the first convolution keeps the first one."""
    wanted = {
        "public": 2,
        "constants": 2,
        "dropout": 2,
        "group norm": 3,
        "unturned": 2,
        "skipping": 4,
        "sided": 4,
    }
    for name, transposes in wanted.items():
        assert operators(write(read(name), tmp_path / f"{name}.onnx"))["Transpose"] == transposes


def test_norms_stay_only_behind_linear_layers(read: Callable[[str], MdxGraph], tmp_path: Path) -> None:
    for name in ("public", "unfolded", "constants"):
        graph = onnx.load(write(read(name), tmp_path / f"{name}.onnx")).graph
        makers = {node.output[0]: node.op_type for node in graph.node}
        norms = [makers[node.input[0]] for node in graph.node if node.op_type == "BatchNormalization"]
        assert norms == ["MatMul"] * 10
        assert {t.name for t in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_norms_are_folded_in_float64_and_rounded_once(
    read: Callable[[str], MdxGraph], tmp_path: Path
) -> None:
    """Also for grouped convolutions of either kind; a shared convolution and one behind the norm stay."""
    network = Unturned()
    graph = onnx.load(write(read("unturned"), tmp_path / "engine.onnx")).graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    first, shared, up, last = [n for n in graph.node if n.op_type.startswith("Conv")]
    assert operators(tmp_path / "engine.onnx")["BatchNormalization"] == 2
    for node, layer, norm in ((first, network.first, network.norms[0]), (up, network.up, network.norms[2])):
        gain = norm.weight.double() / (norm.running_var.double() + np.float32(norm.eps).item()).sqrt()
        bias = 0 if layer.bias is None else layer.bias.double()
        shift = (bias - norm.running_mean.double()) * gain + norm.bias.double()
        with torch.no_grad():
            if layer is network.first:
                wanted = layer.weight.double() * gain[:, None, None, None]
            else:
                halves = layer.weight.double().chunk(2), gain.chunk(2)
                wanted = torch.cat([w * g[None, :, None, None] for w, g in zip(*halves, strict=True)])
        np.testing.assert_array_equal(weights[node.input[1]], wanted.float().numpy())
        np.testing.assert_array_equal(weights[node.input[2]], shift.detach().float().numpy())
    for node, layer in ((shared, network.down), (last, network.last)):
        np.testing.assert_array_equal(weights[node.input[1]], layer.weight.detach().numpy())


def test_all_other_weights_keep_their_bits(read: Callable[[str], MdxGraph], tmp_path: Path) -> None:
    for name in ("public", "unfolded", "group norm unfolded"):
        graph = read(name).model.graph
        constants = [n.attribute[0].t for n in graph.node if n.op_type == "Constant"]
        given = [numpy_helper.to_array(tensor) for tensor in (*graph.initializer, *constants)]
        made = onnx.load(write(read(name), tmp_path / f"{name}.onnx")).graph
        weights = [
            numpy_helper.to_array(t) for t in made.initializer if t.data_type == onnx.TensorProto.FLOAT
        ]
        known = {array.tobytes() for array in given} | {array.T.tobytes() for array in given}
        known.add(np.float32(1.035).tobytes())
        folded = {t.name for t in made.initializer if t.name.endswith(("/weight", "/bias"))}
        strange = [array for array in weights if array.tobytes() not in known]
        assert len(strange) == len(folded) == {"public": 4, "unfolded": 30}.get(name, 0)


def test_the_same_file_gives_the_same_bytes(read: Callable[[str], MdxGraph], tmp_path: Path) -> None:
    for name in ("public", "group norm"):
        again = read_mdx_onnx(read(name).path)
        first, second = (tmp_path / f"{name}{i}.onnx" for i in (1, 2))
        before = read(name).model.SerializeToString()
        assert write(read(name), first).read_bytes() == write(again, second).read_bytes()
        assert read(name).model.SerializeToString() == before


def test_open_frames_take_what_the_scales_divide(
    read: Callable[[str], MdxGraph], tmp_path: Path, snr_db: Snr
) -> None:
    graph = read("open frames")
    wanted = run_original(graph, loud(frames=24), zero_bins=3, compensate=1.035)
    assert snr_db(wanted, run(write(graph, tmp_path / "engine.onnx", frames=24), loud(frames=24))) > MIN_DB
    with pytest.raises(
        CheckpointError, match=r"does not fit together for \(1, 4, 64, 18\) at .*number of frames"
    ):
        write(graph, tmp_path / "engine.onnx", frames=18)


def test_what_the_file_fixes_cannot_be_chosen(read: Callable[[str], MdxGraph], tmp_path: Path) -> None:
    path = tmp_path / "engine.onnx"
    with pytest.raises(CheckpointError, match="made for frames 16, not 32; export with 16"):
        write(read("public"), path, frames=32)
    with pytest.raises(CheckpointError, match="made for batch 1, not 2; export with 1"):
        write(read("fixed batch"), path, batch=2)
    with pytest.raises(CheckpointError, match="it takes 64 bins, n_fft 124 has 63; give its own n_fft"):
        write(read("public"), path, n_fft=124)
    assert not path.exists()


def test_large_weights_lie_beside_the_engine(
    read: Callable[[str], MdxGraph], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snr_db: Snr
) -> None:
    monkeypatch.setattr(onnx_graph, "INLINE_BYTES", 1000)
    graph, path = read("public"), tmp_path / "engine.onnx"
    options = {"batch": 1, "frames": DIM_T, "n_fft": N_FFT, "zero_bins": 3, "compensate": 1.035}
    assert write_contract(graph, path, **options) == tmp_path / "engine.onnx.data"
    assert path.stat().st_size < (tmp_path / "engine.onnx.data").stat().st_size
    wanted = run_original(graph, loud(), zero_bins=3, compensate=1.035)
    assert snr_db(wanted, run(path, loud())) > MIN_DB


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    real = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in names else real(name))


def test_openvino_runs_the_original_where_onnxruntime_is_missing(
    read: Callable[[str], MdxGraph], monkeypatch: pytest.MonkeyPatch, snr_db: Snr
) -> None:
    wanted = run_original(read("public"), loud(2), zero_bins=3, compensate=1.035)
    hide(monkeypatch, "onnxruntime")
    monkeypatch.setattr(module, "_onnxruntime", None)
    got = run_original(read("public"), loud(2), zero_bins=3, compensate=1.035)
    assert snr_db(wanted, got) > MIN_DB


def test_no_runtime_for_the_original_is_named(
    read: Callable[[str], MdxGraph], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "onnxruntime", "openvino")
    with pytest.raises(EngineLoadError, match="nothing to run it with for comparison; pip install"):
        run_original(read("public"), loud(), zero_bins=3, compensate=1.035)


def test_frames_the_original_does_not_take_are_an_error_in_one_line(read: Callable[[str], MdxGraph]) -> None:
    with pytest.raises(CheckpointError, match="it does not run") as error:
        run_original(read("public"), loud(frames=8), zero_bins=3, compensate=1.035)
    assert "\n" not in str(error.value)
