"""The published .onnx file of an MDX-Net (UVR, Kim, kuielab) -> an engine, by surgery on its graph."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import TensorProto

from rofo.errors import EngineLoadError
from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.onnx_folding import drop_unused, fold_batch_norms, fold_constants
from rofo.export.families.mdx_net.wrapping import PACKED, pack, prefix_names, unpack
from rofo.export.graph.trace import OPSET, save_onnx, value_shape
from rofo.export.source.checkpoint import digests
from rofo.export.source.onnx_file import load_weights, parse_onnx, type_name
from rofo.text import one_line, printable

Floats = NDArray[np.float32]

_AUDIO = 2

# What torch's exporter makes of ConvTDFNet in opsets 9 to 18, with BatchNorm or GroupNorm, and what moves
# weights and shapes around.
_OPERATORS = {
    "Add", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "Dropout", "Gather",
    "GroupNormalization", "Identity", "InstanceNormalization", "MatMul", "Mul", "Relu", "Reshape", "Shape",
    "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip

_GIVE = "give an MDX-Net as its authors publish it"

# The largest public networks take 3072 bins and 512 frames, and have 48 channels of that size.
_MAX_CELLS = 1 << 24
_MAX_VALUES = 1 << 28
_MAX_EDGES = 1 << 14  # theirs have 500; onnx takes the square of it in time
_TRIED_FRAMES = 512  # where the file leaves their number open, as kuielab's A do, which were trained on 512

_FATAL_ONLY = 4  # ONNX Runtime reports the rest by exceptions

_IR_VERSION = 10  # what torch's exporter writes for the other families


@dataclass(frozen=True)
class MdxGraph:
    """The network of an MDX-Net .onnx file: float32 (batch, 4, dim_f, dim_t) -> the same shape.

    `tail_md5` is the MD5 of the file's last 10,240,000 bytes, by which UVR's tables know it. `model` has all
    weights in memory. `dim_t` is None where any number of frames that the network's scales divide will do,
    `batch` where any will; else it is 1.
    """

    path: Path
    sha256: str
    tail_md5: str
    model: onnx.ModelProto
    dim_f: int
    dim_t: int | None
    batch: int | None


def read_mdx_onnx(path: Path) -> MdxGraph:
    """Read and check an .onnx file. Raises CheckpointError for all that is not a float32 MDX-Net."""
    model = parse_onnx(path)
    _check_operators(path, model.graph)
    batch, dim_f, dim_t = _sizes(path, model.graph)
    load_weights(path, model)
    _check_opset(path, model)
    graph = MdxGraph(path, *digests(path), model, dim_f, dim_t, batch)
    _static(graph, 1, dim_t or _TRIED_FRAMES)
    return graph


def write_contract(
    graph: MdxGraph, path: Path, *, batch: int, frames: int, n_fft: int, zero_bins: int, compensate: float
) -> Path | None:
    """Write the network as an engine of opset 23; return the file of large weights, if any.

    mix (batch, 2, frames, bins, 2) -> stems (batch, 1, 2, frames, bins, 2), bins = n_fft // 2 + 1. The lowest
    `zero_bins` of the mix are silenced, as UVR does; bins from dim_f on are zero in the stems, which are
    multiplied by `compensate`. Weights keep their bits, unless a BatchNormalization is folded into them.
    `path` must lie in an empty folder. Raises CheckpointError where batch, frames or n_fft do not suit the
    network.
    """
    bins = n_fft // 2 + 1
    if graph.dim_f > bins:
        raise CheckpointError(
            f"{graph.path}: it takes {graph.dim_f} bins, n_fft {n_fft} has {bins}; give its own n_fft"
        )
    mix, stems = (batch, _AUDIO, frames, bins, 2), (batch, 1, _AUDIO, frames, bins, 2)
    model = _static(graph, batch, frames)
    fold_batch_norms(model)
    network = model.graph
    prefix_names(network)
    pack(network, mix, graph.dim_f, zero_bins)
    unpack(network, stems, graph.dim_f, compensate)
    return save_onnx(_finished(network), path, mix)


def run_original(graph: MdxGraph, mix: Floats, *, zero_bins: int, compensate: float) -> Floats:
    """What the given file itself makes of a mix, in the shapes and with the options of `write_contract`.

    Nothing of what that does takes part. Raises EngineLoadError without ONNX Runtime and OpenVINO,
    CheckpointError where they refuse the file.
    """
    batch, audio, frames, bins, _ = mix.shape
    packed = mix.transpose(0, 1, 4, 3, 2).reshape(batch, PACKED, bins, frames)[:, :, : graph.dim_f].copy()
    packed[:, :, :zero_bins] = 0
    got = _run(graph, packed)
    stems = np.zeros((batch, PACKED, bins, frames), np.float32)
    stems[:, :, : graph.dim_f] = got * np.float32(compensate)
    return stems.reshape(batch, 1, audio, 2, bins, frames).transpose(0, 1, 2, 5, 4, 3).copy()


def _check_operators(path: Path, graph: onnx.GraphProto) -> None:
    found = {f"{node.domain}.{node.op_type}".lstrip(".") for node in graph.node}
    strange = sorted(map(printable, found - _OPERATORS))
    if strange:
        raise CheckpointError(f"{path}: no MDX-Net has operators such as {', '.join(strange[:5])}; {_GIVE}")
    if "Conv" not in found:
        raise CheckpointError(f"{path}: has no convolution, so it is no MDX-Net; {_GIVE}")
    if sum(len(node.input) + len(node.output) for node in graph.node) > _MAX_EDGES:
        raise CheckpointError(f"{path}: {len(graph.node)} nodes or more are no MDX-Net; {_GIVE}")
    if any(map(_in_training, graph.node)):
        raise CheckpointError(f"{path}: exported in training mode; export it again in evaluation mode")


def _check_opset(path: Path, model: onnx.ModelProto) -> None:
    newest = max(entry.version for entry in model.opset_import if entry.domain == "")
    if newest > OPSET:
        raise CheckpointError(f"{path}: of opset {newest}, known are those to {OPSET}; export it in one")


def _in_training(node: onnx.NodeProto) -> bool:
    """Whether it uses the statistics of its batch (before opset 14 told by more outputs) or drops out."""
    if node.op_type == "BatchNormalization":
        return len(node.output) > 1 or any(a.name == "training_mode" and a.i for a in node.attribute)
    return node.op_type == "Dropout" and len(node.input) > 2


def _sizes(path: Path, graph: onnx.GraphProto) -> tuple[int | None, int, int | None]:
    """Batch, bins and frames of the only input; None for what is not fixed. The only output must agree."""
    weights = {tensor.name for tensor in graph.initializer}  # which some exporters list as inputs too
    inputs = [value for value in graph.input if value.name not in weights]
    if (len(inputs), len(graph.output)) != (1, 1):
        raise CheckpointError(
            f"{path}: {len(inputs)} inputs, {len(graph.output)} outputs, an MDX-Net has one of each; {_GIVE}"
        )
    for value in (*inputs, *graph.output):
        kind = value.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT:
            raise CheckpointError(
                f"{path}: takes or gives {type_name(kind)}, needed is FLOAT; "
                "give the float32 file, not a converted one"
            )
    taken, given = value_shape(inputs[0]), value_shape(graph.output[0])
    if not _is_packed(taken):
        raise CheckpointError(
            f"{path}: its input is {_text(taken)}, an MDX-Net's (batch, {PACKED}, bins, frames); {_GIVE}"
        )
    if not _agree(taken, given):
        raise CheckpointError(f"{path}: makes {_text(given)} of {_text(taken)}, needed is the same; {_GIVE}")
    batch, _, dim_f, dim_t = (size if isinstance(size, int) else None for size in taken)
    assert dim_f is not None
    return batch, dim_f, dim_t


def _is_packed(shape: tuple[int | str, ...]) -> bool:
    if len(shape) != 4:
        return False
    batch, packed, dim_f, dim_t = shape
    if packed != PACKED or not isinstance(dim_f, int):
        return False
    cells = dim_f * (dim_t if isinstance(dim_t, int) else 1)
    return (isinstance(batch, str) or batch == 1) and 0 < cells <= _MAX_CELLS


def _agree(taken: tuple[int | str, ...], given: tuple[int | str, ...]) -> bool:
    pairs = zip(taken, given, strict=False)
    return len(taken) == len(given) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in pairs
    )


def _text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(printable(str(size)) for size in shape)})"


def _static(graph: MdxGraph, batch: int, frames: int) -> onnx_ir.Model:
    """The network in opset 23 for so many chunks of so many frames, the shape of every value known."""
    _check_fixed(graph, batch, frames)
    shape = (batch, PACKED, graph.dim_f, frames)
    try:
        model = onnx_ir.from_proto(_raised(graph, shape))
        fold_constants(model)
        # Before anything is dropped: `run_original` runs it all.
        _check_shapes(graph.path, model.graph, shape)
        drop_unused(model)
        model = _inferred(model)
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 onnx raises a dozen kinds for a graph that does not fit together
        reason = printable(one_line(error, 200))
        raise CheckpointError(
            f"{graph.path}: does not fit together for {_text(shape)} ({reason}); "
            f"give another number of frames, or {_GIVE}"
        ) from None
    return model


def _check_fixed(graph: MdxGraph, batch: int, frames: int) -> None:
    for name, fixed, wanted in (("batch", graph.batch, batch), ("frames", graph.dim_t, frames)):
        if fixed not in (None, wanted):
            raise CheckpointError(f"{graph.path}: made for {name} {fixed}, not {wanted}; export with {fixed}")


def _raised(graph: MdxGraph, shape: tuple[int, ...]) -> onnx.ModelProto:
    """A copy of the model in opset 23, its input of a static shape and all else to be inferred from that."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    weights = {tensor.name for tensor in model.graph.initializer}
    (value,) = (value for value in model.graph.input if value.name not in weights)
    kept = onnx.helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.append(kept)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.version_converter.convert_version(model, OPSET)


def _inferred(model: onnx_ir.Model) -> onnx_ir.Model:
    """A copy with the shape of every value."""
    proto = onnx_ir.to_proto(model)
    shaped = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    return onnx_ir.from_proto(shaped)


def _check_shapes(path: Path, network: onnx_ir.Graph, shape: tuple[int, ...]) -> None:
    """All shapes known, none absurd, the output's as the input's."""
    for value in (value for node in network for value in node.outputs):
        if value.shape is None or not value.shape.is_static():
            raise CheckpointError(
                f"{path}: does not fit together for {_text(shape)} at {printable(value.name)}; "
                f"give another number of frames, or {_GIVE}"
            )
        if math.prod(value.shape.numpy()) > shape[0] * _MAX_VALUES:
            raise CheckpointError(f"{path}: {printable(value.name)} is {_text(value.shape)}; {_GIVE}")
    given = network.outputs[0].shape.numpy()
    if given != shape:
        raise CheckpointError(f"{path}: makes {_text(given)} of {_text(shape)}, needed is the same; {_GIVE}")


def _finished(network: onnx_ir.Graph) -> onnx_ir.Model:
    """A model of the network alone: nothing else of the given file, and the shapes as they are now."""
    network.name = "mdx_net"
    network.doc_string = None
    for node in network:
        for value in node.outputs:
            if value is not network.outputs[0]:
                value.shape = None
    network.opset_imports.clear()
    network.opset_imports[""] = OPSET
    return _inferred(onnx_ir.Model(network, ir_version=_IR_VERSION))


def _run(graph: MdxGraph, packed: Floats) -> Floats:
    """The given network on (batch, 4, dim_f, frames), one item at a time."""
    runners = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    opener = next((runners[name] for name in runners if find_spec(name) is not None), None)
    if opener is None:
        raise EngineLoadError(
            f"{graph.path}: nothing to run it with for comparison; pip install 'rofo[cpu]', or --no-verify"
        )
    try:
        network = opener(graph.model.SerializeToString())
        return np.concatenate([network(item[None]) for item in packed])
    except Exception as error:  # noqa: BLE001 the errors of the runtimes share no base class
        reason = printable(one_line(error, 200))
        raise CheckpointError(f"{graph.path}: it does not run ({reason}); {_GIVE}") from None


def _onnxruntime(model: bytes) -> Callable[[Floats], Floats]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda packed: session.run(None, {name: packed})[0]


def _openvino(model: bytes) -> Callable[[Floats], Floats]:
    import openvino

    compiled = openvino.compile_model(
        openvino.Core().read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda packed: compiled(packed)[0]
