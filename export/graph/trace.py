"""A network as an ONNX file: traced by torch.export, opset 23, real-valued, static shapes."""

import ast
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import optimize_ir
from torch import nn

from rofo.export.errors import CheckpointError

Floats = NDArray[np.float32]

OPSET = 23
# What a network makes of each of its inputs.
OUTPUTS = {"mix": "stems", "waveform": "waveforms"}

_SCOPES = "pkg.torch.onnx.name_scopes"  # modules from the outermost inwards, then the node itself

# Above this, weights go into a file of their own: protobuf ends at 2 GB, and for a 640 MB model one file
# costs 2.9 GB of memory to write, two cost 1.0 GB and let the runtime map the weights.
INLINE_BYTES = 64 << 20


@dataclass(frozen=True)
class Tensors:
    """An engine's inputs, by name with their shapes, in the order of the network's arguments; its outputs."""

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]


def write_onnx(network: nn.Module, tensors: Tensors, path: Path, *, typed: bool = False) -> Path | None:
    """Trace `network` for inputs of these shapes into `path`; return the file of large weights, if any.

    `typed` keeps 16-bit weights before their casts, and names every node MODULE/OPERATOR_n after the
    module of the network that it computes. `path` must lie in an empty folder: saving over external
    weights appends to them.
    """
    model = _traced(network, tensors, typed=typed)
    if typed:
        _name_after_modules(model)
    return _save(model, path, tensors)


def _save(model: onnx_ir.Model, path: Path, tensors: Tensors) -> Path | None:
    """Without what tells its origin. Raises CheckpointError where the graph breaks the contract."""
    _forget_origin(model)
    data = path.with_name(path.name + ".data") if _weight_bytes(model) > INLINE_BYTES else None
    onnx_ir.save(model, path, external_data=data.name if data else None)
    _check(path, tensors)
    return data


def _traced(network: nn.Module, tensors: Tensors, *, typed: bool) -> onnx_ir.Model:
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            network.eval(),
            tuple(map(torch.zeros, tensors.inputs.values())),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(tensors.inputs),
            output_names=list(tensors.outputs),
            verbose=False,
            optimize=not typed,
        )
    assert program is not None  # only None when a file name is given
    if typed:
        # Folding would turn small 16-bit weights before a cast into 32-bit ones: another product.
        optimize_ir(program.model, should_fold=lambda node: False if _widens(node) else None)
        _widen_for_each_reader(program.model)
    return program.model


def _widens(node: onnx_ir.Node) -> bool:
    value = node.inputs[0] if node.op_type == "Cast" else None
    return value is not None and value.dtype in (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


def _widen_for_each_reader(model: onnx_ir.Model) -> None:
    """Give every reader of 16 bits a cast to float32 of its own: what a common one makes, a plan stores."""
    for cast in [node for node in model.graph if _widens(node)]:
        for reader, index in list(cast.outputs[0].uses())[1:]:
            own = onnx_ir.node("Cast", cast.inputs, cast.attributes, metadata_props=cast.metadata_props)
            own.outputs[0].type, own.outputs[0].shape = cast.outputs[0].type, cast.outputs[0].shape
            model.graph.insert_before(reader, own)
            reader.replace_input_with(index, own.outputs[0])


def _name_after_modules(model: onnx_ir.Model) -> None:
    for i, node in enumerate(model.graph):
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "network")
        node.name = f"{module}/{node.op_type}_{i}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's notes about packages it does not find, and about its own internals, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _forget_origin(model: onnx_ir.Model) -> None:
    """Drop stack traces and module names: they tell the paths of the machine and are half of the graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _weight_bytes(model: onnx_ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def _check(path: Path, tensors: Tensors) -> None:
    """Hold the written graph to the contract: names, static shapes, no other operator sets."""
    onnx.checker.check_model(path)
    graph = onnx.load(path, load_external_data=False)
    domains = {node.domain for node in graph.graph.node}
    inputs, outputs = (
        {value.name: value_shape(value) for value in values}
        for values in (graph.graph.input, graph.graph.output)
    )
    static = all(isinstance(size, int) for shape in outputs.values() for size in shape)
    right = inputs == dict(tensors.inputs) and tuple(outputs) == tensors.outputs
    if domains - {""} or not right or not static:
        raise CheckpointError(
            f"{path.name}: the graph came out with tensors {inputs} -> {outputs} and operator sets "
            f"{sorted(domains)}; this torch or onnx is not supported, install the version in the manifest of "
            "a working export"
        )


def run_network(network: nn.Module, inputs: Mapping[str, Floats]) -> dict[str, Floats]:
    """A network of the contract as it is, arrays by name in the order of its arguments -> its outputs."""
    with torch.inference_mode():
        found = network.eval()(*map(torch.from_numpy, inputs.values()))
    outputs = found if isinstance(found, tuple) else (found,)
    return {OUTPUTS[name]: output.numpy() for name, output in zip(inputs, outputs, strict=False)}


def value_shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The sizes of a tensor, with a name or "?" for those that are not fixed."""
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in dims)
