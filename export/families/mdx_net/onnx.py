"""The published .onnx file of an MDX-Net (UVR, Kim, kuielab): its weights read off, and the file itself run.

The structure of the network is fixed: a walk from input to output meets its layers in their order, whatever
exporter, opset and names. Nothing else is accepted, so that what is read is what the file computes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, numpy_helper
from torch import Tensor

from rofo.engines.openvino import openvino_core
from rofo.engines.telemetry import import_quietly
from rofo.errors import EngineLoadError
from rofo.export.errors import CheckpointError
from rofo.export.families.mdx_net.network import EPSILON
from rofo.export.graph.trace import OPSET, value_shape
from rofo.export.source.onnx_file import type_name
from rofo.text import one_line, printable

Floats = NDArray[np.float32]

_PACKED = 4  # channels of the network: L.re, L.im, R.re, R.im
_GIVE = "give an MDX-Net as its authors publish it"
_MAX_CELLS = 1 << 24  # the largest public networks take 3072 bins and 512 frames
_FATAL_ONLY = 4  # ONNX Runtime reports the rest by exceptions

# The layers as torch's exporters write them in opsets 9 to 23, and what moves weights and shapes around.
_OPERATORS = {
    "Add", "BatchNormalization", "Cast", "Concat", "Constant", "Conv", "ConvTranspose", "Dropout", "Gather",
    "GroupNormalization", "Identity", "InstanceNormalization", "MatMul", "Mul", "Relu", "Reshape", "Shape",
    "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
_ALIASES = {"Dropout", "Identity"}


@dataclass(frozen=True)
class MdxGraph:
    """What an .onnx file holds: `state` by the keys of ConvTdfNet, for `dim_f` bins.

    `dim_t` is None where any number of frames will do, `groups` None for BatchNorm. One that was folded into
    its convolution has the statistics of one that does nothing.
    """

    dim_f: int
    dim_t: int | None
    groups: int | None
    state: dict[str, Tensor]


def read_graph(path: Path, model: onnx.ModelProto) -> MdxGraph:
    """Raises CheckpointError for all that is not a float32 MDX-Net."""
    _check_operators(path, model)
    name, dim_f, dim_t = _input(path, model.graph)
    state, groups = _Walk(path, model.graph, name).read()
    return MdxGraph(dim_f, dim_t, groups, state)


def run_original(
    path: Path, model: onnx.ModelProto, mix: Floats, *, dim_f: int, zero_bins: int, gain: float
) -> Floats:
    """What the given file itself makes of mix (batch, 2, frames, bins, 2): (batch, 1, 2, frames, bins, 2).

    Nothing of what is read from it takes part. Raises EngineLoadError without ONNX Runtime and OpenVINO,
    CheckpointError where they refuse the file.
    """
    batch, audio, frames, bins, _ = mix.shape
    packed = mix.transpose(0, 1, 4, 3, 2).reshape(batch, _PACKED, bins, frames)[:, :, :dim_f].copy()
    packed[:, :, :zero_bins] = 0
    stems = np.zeros((batch, _PACKED, bins, frames), np.float32)
    stems[:, :, :dim_f] = _run(path, model, packed) * np.float32(gain)
    return stems.reshape(batch, 1, audio, 2, bins, frames).transpose(0, 1, 2, 5, 4, 3).copy()


class _Walk:
    """From the input of a graph to its output, layer by layer. `at` is the value that it has come to."""

    def __init__(self, path: Path, graph: onnx.GraphProto, at: str) -> None:
        self.path, self.graph, self.at = path, graph, at
        self.makers = {name: node for node in graph.node for name in node.output}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            if node.op_type not in _ALIASES | {"Shape"}:
                for name in set(map(self.named, node.input)):
                    self.readers.setdefault(name, []).append(node)
        self.met: set[str] = set()  # outputs of the nodes on the way
        self.norms: set[int | None] = set()  # numbers of groups, None for BatchNorm
        self.state: dict[str, Tensor] = {}
        self.channels = 0

    def read(self) -> tuple[dict[str, Tensor], int | None]:
        """The state dict of ConvTdfNet, and the groups of its norms."""
        self.convolution("first_conv")
        self.turn()
        blocks, kept, ups = [self.block()], list[str](), 0
        while self.reader("Conv", step=2) is not None:
            kept.append(self.at)
            self.convolution(f"ds.{len(kept) - 1}", step=2)
            blocks.append(self.block())
        scales = len(kept)
        while kept:
            self.convolution(f"us.{ups}", operator="ConvTranspose", step=2)
            self.take("Mul", kept.pop())
            blocks.append(self.block())
            ups += 1
        self.turn()
        self.convolution("final_conv", last=True)
        self.finish()
        places = [f"encoding_blocks.{i}" for i in range(scales)]
        places += ["bottleneck_block", *(f"decoding_blocks.{i}" for i in range(scales))]
        for place, block in zip(places, blocks, strict=True):
            self.state.update({f"{place}.{key}": tensor for key, tensor in block.items()})
        return self.state, next(iter(self.norms))

    def block(self) -> dict[str, Tensor]:
        """Convolutions, and linear layers where there are any, by their keys within the block."""
        outer, self.state = self.state, {}
        number = 0
        while self.reader("Conv", step=1) is not None:
            self.convolution(f"tfc.H.{number}")
            number += 1
        before = self.at
        for key in (0, 3):
            if self.reader("MatMul") is not None:
                self.linear(key)
        if self.at != before:
            self.take("Add", before)
        block, self.state = self.state, outer
        return block

    def convolution(self, key: str, *, operator: str = "Conv", step: int = 1, last: bool = False) -> None:
        """One that keeps the size, or divides or multiplies it by `step`; all but the `last` have a norm."""
        node = self.take(operator, step=step)
        weight = self.constant(node.input[1], 4)
        padding = weight.shape[2] // 2 if step == 1 else 0
        wanted = {
            "strides": [step] * 2, "pads": [padding] * 4, "dilations": [1, 1], "group": 1,
            "kernel_shape": [weight.shape[2]] * 2, "output_padding": [0, 0], "auto_pad": b"NOTSET",
        }  # fmt: skip
        if any(wanted.get(name) != value for name, value in _attributes(node).items()):
            raise self.refusal(f"a {operator} that is not MDX-Net's at {printable(self.at)}")
        if weight.shape[2] != weight.shape[3] or (padding and "pads" not in _attributes(node)):
            raise self.refusal(f"a {operator} that is not MDX-Net's at {printable(self.at)}")
        outputs = weight.shape[operator == "ConvTranspose"]
        bias = self.constant(node.input[2], 1) if len(node.input) > 2 else np.zeros(outputs, np.float32)
        self.keep({f"{key}.0.weight": weight, f"{key}.0.bias": bias})
        self.channels = outputs
        if not last:
            self.norm(f"{key}.1")

    def linear(self, number: int) -> None:
        """x @ weight + bias along the bins."""
        node = self.take("MatMul")
        self.keep({f"tdf.{number}.weight": self.constant(node.input[1], 2).T})
        if self.reader("Add") is not None:
            self.keep({f"tdf.{number}.bias": self.factor("Add")})
        self.norm(f"tdf.{number + 1}")

    def norm(self, key: str) -> None:
        """BatchNorm, GroupNorm in one operator or in five, or none left: then one that does nothing."""
        names = ("weight", "bias", "running_mean", "running_var")
        groups = None
        if self.reader("BatchNormalization") is not None:
            node = self.take("BatchNormalization")
            values = [self.constant(name, 1) for name in node.input[1:]]
        elif self.reader("GroupNormalization") is not None:
            node = self.take("GroupNormalization")
            values, groups = (
                [self.constant(name, 1) for name in node.input[1:]],
                _attributes(node)["num_groups"],
            )
        elif self.reader("Reshape") is not None:
            self.take("Reshape")
            node = self.take("InstanceNormalization")
            scale, shift = (self.constant(name, 1) for name in node.input[1:])
            if (scale != 1).any() or (shift != 0).any():
                raise self.refusal(f"an InstanceNormalization with weights at {printable(self.at)}")
            self.take("Reshape")
            values, groups = [self.factor("Mul"), self.factor("Add")], len(scale)
        else:
            one, zero = np.ones(self.channels, np.float32), np.zeros(self.channels, np.float32)
            node, values = NodeProto(), [one, zero, zero, one - np.float32(EPSILON)]
        if abs(_attributes(node).get("epsilon", EPSILON) - EPSILON) > EPSILON / 1000:
            raise self.refusal(f"a norm whose epsilon is not {EPSILON} at {printable(self.at)}")
        self.norms.add(groups)
        self.keep({f"{key}.{name}": value for name, value in zip(names, values, strict=False)})
        self.take("Relu")

    def turn(self) -> None:
        """Frames and bins change places."""
        if _attributes(self.take("Transpose")).get("perm") != [0, 1, 3, 2]:
            raise self.refusal(f"a Transpose of other axes at {printable(self.at)}")

    def finish(self) -> None:
        """Nothing may be left but what is made of constants and shapes: `run_original` runs it all."""
        if self.at != self.named(self.graph.output[0].name):
            raise self.refusal(f"more than an MDX-Net has behind {printable(self.at)}")
        known = {*self.tensors, ""}
        for node in self.graph.node:
            if node.op_type == "Shape" or known.issuperset(node.input):
                known.update(node.output)
            elif node.op_type not in _ALIASES and node.output[0] not in self.met:
                raise self.refusal(f"a {node.op_type} that no MDX-Net has at {printable(node.output[0])}")
        if len(self.norms) != 1:
            raise self.refusal("norms of several kinds")

    def reader(self, operator: str, *, step: int | None = None) -> NodeProto | None:
        """The node of an operator, and of a stride, that reads where we are."""
        readers = [node for node in self.readers.get(self.at, []) if node.op_type == operator]
        return next(
            (n for n in readers if step is None or _attributes(n).get("strides", [1, 1])[0] == step), None
        )

    def take(self, operator: str, *others: str, step: int | None = None) -> NodeProto:
        """Go on behind the node of an operator, which reads `others` besides."""
        node = self.reader(operator, step=step)
        if node is None:
            raise self.refusal(f"no {operator} behind {printable(self.at)}")
        read = [self.named(name) for name in node.input]
        if read[0] != self.at if not others else sorted(read) != sorted([self.at, *others]):
            raise self.refusal(f"a {operator} that reads something else at {printable(node.output[0])}")
        self.met.add(node.output[0])
        self.at = node.output[0]
        return node

    def factor(self, operator: str) -> Floats:
        """The constant that is multiplied or added to every channel or bin."""
        before, node = self.at, self.reader(operator)
        other = next((name for name in node.input if self.named(name) != before), before) if node else before
        self.take(operator, self.named(other))
        return self.constant(other, 1)

    def constant(self, name: str, rank: int) -> Floats:
        """A constant; one of `rank` 1 may have further axes of 1."""
        perms: list[list[int]] = []
        while (name := self.named(name)) not in self.tensors:
            node = self.makers.get(name)
            if node is None or node.op_type not in ("Constant", "Transpose", "Unsqueeze"):
                raise self.refusal(f"{printable(name)} is no constant")
            if node.op_type == "Constant":
                return self.shaped(name, _attributes(node).get("value"), rank, perms)
            if node.op_type == "Transpose":
                perms.append(_attributes(node).get("perm", [1, 0]))
            name = node.input[0]
        return self.shaped(name, self.tensors[name], rank, perms)

    def shaped(self, name: str, tensor: Any, rank: int, perms: list[list[int]]) -> Floats:
        """Its values."""
        values: NDArray[Any] = np.zeros(0)
        if isinstance(tensor, TensorProto):
            values = numpy_helper.to_array(tensor)
        values = values.reshape(-1) if rank == 1 else values
        if values.ndim != rank or values.dtype != np.float32 or any(perm != [1, 0] for perm in perms):
            raise self.refusal(f"{printable(name)} has the shape {values.shape}")
        return values.T if len(perms) % 2 else values

    def keep(self, weights: dict[str, Floats]) -> None:
        """Copies, which outlive the file."""
        self.state |= {key: torch.from_numpy(values.copy()) for key, values in weights.items()}

    def named(self, name: str) -> str:
        """The value itself, where a node only gives it another name."""
        while name in self.makers and self.makers[name].op_type in _ALIASES:
            name = self.makers[name].input[0]
        return name

    def refusal(self, what: str) -> CheckpointError:
        """What to raise."""
        return CheckpointError(f"{self.path}: no MDX-Net, it has {what}; {_GIVE}")


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    found = {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node}
    strange = sorted(map(printable, found - _OPERATORS))
    if strange:
        raise CheckpointError(f"{path}: no MDX-Net has operators such as {', '.join(strange[:5])}; {_GIVE}")
    if "Conv" not in found:
        raise CheckpointError(f"{path}: has no convolution, so it is no MDX-Net; {_GIVE}")
    if any(map(_in_training, model.graph.node)):
        raise CheckpointError(f"{path}: exported in training mode; export it again in evaluation mode")
    newest = max(entry.version for entry in model.opset_import if entry.domain == "")
    if newest > OPSET:
        raise CheckpointError(f"{path}: of opset {newest}, known are those to {OPSET}; export it in one")


def _in_training(node: NodeProto) -> bool:
    """Whether it uses the statistics of its batch (before opset 14 told by more outputs) or drops out."""
    if node.op_type == "BatchNormalization":
        return len(node.output) > 1 or any(a.name == "training_mode" and a.i for a in node.attribute)
    return node.op_type == "Dropout" and len(node.input) > 2


def _input(path: Path, graph: onnx.GraphProto) -> tuple[str, int, int | None]:
    """Name of the only input, its bins, and its frames, None if not fixed. The only output must agree."""
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
            f"{path}: its input is {_text(taken)}, an MDX-Net's (batch, {_PACKED}, bins, frames); {_GIVE}"
        )
    pairs = zip(taken, given, strict=False)
    if len(taken) != len(given) or any(
        a != b and isinstance(a, int) and isinstance(b, int) for a, b in pairs
    ):
        raise CheckpointError(f"{path}: makes {_text(given)} of {_text(taken)}, needed is the same; {_GIVE}")
    dim_f, dim_t = (size if isinstance(size, int) else None for size in taken[2:])
    assert dim_f is not None
    return inputs[0].name, dim_f, dim_t


def _is_packed(shape: tuple[int | str, ...]) -> bool:
    if len(shape) != 4 or shape[1] != _PACKED or not isinstance(shape[2], int):
        return False
    cells = shape[2] * (shape[3] if isinstance(shape[3], int) else 1)
    return (isinstance(shape[0], str) or shape[0] == 1) and 0 < cells <= _MAX_CELLS


def _text(shape: Sequence[int | str]) -> str:
    return f"({', '.join(printable(str(size)) for size in shape)})"


def _run(path: Path, model: onnx.ModelProto, packed: Floats) -> Floats:
    """The given network on (batch, 4, dim_f, frames), one item at a time."""
    runners = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    opener = next((runners[name] for name in runners if find_spec(name) is not None), None)
    if opener is None:
        raise EngineLoadError(
            f"{path}: nothing to run it with for comparison; pip install 'rofo[cpu]', or --no-verify"
        )
    try:
        network = opener(model.SerializeToString())
        return np.concatenate([network(item[None]) for item in packed])
    except Exception as error:  # noqa: BLE001 the errors of the runtimes share no base class
        reason = printable(one_line(error, 200))
        raise CheckpointError(f"{path}: it does not run ({reason}); {_GIVE}") from None


def _onnxruntime(model: bytes) -> Callable[[Floats], Floats]:
    onnxruntime = import_quietly("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda packed: session.run(None, {name: packed})[0]


def _openvino(model: bytes) -> Callable[[Floats], Floats]:
    core = openvino_core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda packed: compiled(packed)[0]
