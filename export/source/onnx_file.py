"""An ONNX file from anywhere, not trusted: nothing in it runs, nothing outside its folder is opened."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_model

from rofo.export.errors import CheckpointError
from rofo.export.source.file_kind import file_kind
from rofo.text import one_line, printable

# The largest public MDX-Net has 67 MB; protobuf ends at 2 GB, and every copy made on the way costs as much.
_MAX_BYTES = 1 << 30

# Weights are float32; the others hold shapes, axes and switches.
_TYPES = {TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}

_MAX_EDGES = 1 << 14  # those of public MDX-Nets have 500; onnx's checker takes the square of it in time

_DAMAGED = "download it again"


def parse_onnx(path: Path) -> onnx.ModelProto:
    """The structure of an ONNX file; weights of another file are not looked for yet.

    Raises CheckpointError for what is no ONNX file, is cut short, or holds functions of its own.
    """
    kind = file_kind(path)
    if kind != "onnx":
        raise CheckpointError(f"{path}: a PyTorch checkpoint ({kind}), not an ONNX file; give the .onnx")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes, at most {_MAX_BYTES} are read; give an MDX-Net")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception:  # noqa: BLE001 protobuf, whose errors these are, is not ours to import
        raise CheckpointError(f"{path}: an ONNX file cut short or damaged; {_DAMAGED}") from None
    if not model.graph.node:
        raise CheckpointError(f"{path}: an ONNX file without a network, cut short or empty; {_DAMAGED}")
    if sum(len(node.input) + len(node.output) for node in model.graph.node) > _MAX_EDGES:
        raise CheckpointError(
            f"{path}: {len(model.graph.node)} nodes or more are no MDX-Net; give an MDX-Net"
        )
    if model.functions or model.graph.sparse_initializer:
        raise CheckpointError(f"{path}: holds functions or sparse weights; export it again without them")
    return model


def load_weights(path: Path, model: onnx.ModelProto) -> None:
    """Bring weights of other files into `model`, parsed from `path`, and check model and weights.

    Raises CheckpointError where weights lie outside the folder of `path`, are missing, too short, too large,
    of another type than float32, or not finite, and where the model breaks the rules of ONNX.
    """
    tensors = list(_tensors(model.graph))
    _check_types(path, tensors)
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            _check_external(path, tensor)
    try:
        load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
        broken = [tensor.name for tensor in tensors if not np.isfinite(numpy_helper.to_array(tensor)).all()]
    except Exception as error:  # noqa: BLE001 onnx raises a dozen kinds for a damaged or hostile file
        reason = printable(one_line(error, 200))
        raise CheckpointError(f"{path}: not a valid ONNX model ({reason}); {_DAMAGED}") from None
    if broken:
        raise CheckpointError(f"{path}: weights not finite: {_listed(broken)}; {_DAMAGED}")


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_types(path: Path, tensors: list[TensorProto]) -> None:
    strange = {type_name(tensor.data_type) for tensor in tensors if tensor.data_type not in _TYPES}
    if strange:
        raise CheckpointError(
            f"{path}: weights of type {_listed(strange)}, needed is FLOAT; "
            "give the float32 file, not a converted one"
        )
    # Many tensors may name the same bytes of a file: their sum counts, not the file's size.
    if any(d < 0 for t in tensors for d in t.dims) or sum(map(_bytes, tensors)) > _MAX_BYTES:
        raise CheckpointError(f"{path}: states weights of more than {_MAX_BYTES} bytes; give an MDX-Net")


def _check_external(path: Path, tensor: TensorProto) -> None:
    """Hold a tensor's place to the folder of `path`: by the name itself, and by where links would lead."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    location = place.get("location", "")
    shown = printable(location)
    if not _inside(path.parent, location):
        raise CheckpointError(
            f"{path}: its weights lie outside its folder ({shown}); put both files in one, without links"
        )
    file = path.parent / location
    if not file.is_file():
        raise CheckpointError(f"{path}: its weights, {shown}, are missing; put that file beside it")
    if not _holds(file.stat().st_size, place, _bytes(tensor)):
        raise CheckpointError(f"{path}: its weights, {shown}, are cut short or damaged; download both again")


def _inside(folder: Path, location: str) -> bool:
    try:
        file = (folder / location).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
        return False
    return ".." not in Path(location).parts and file.is_relative_to(folder.resolve())


def _holds(size: int, place: dict[str, str], needed: int) -> bool:
    """Whether a file of `size` bytes has the `needed` ones at the stated place."""
    try:
        offset, length = int(place.get("offset", 0)), int(place.get("length", needed))
    except ValueError:
        return False
    return length == needed and 0 <= offset <= size - needed


def _bytes(tensor: TensorProto) -> int:
    size: int = math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return size


def type_name(number: int) -> str:
    """FLOAT, INT64, ... as TensorProto names its types of numbers."""
    return next((name for name, value in TensorProto.DataType.items() if value == number), f"number {number}")


def _listed(names: list[str] | set[str]) -> str:
    return ", ".join(printable(name) for name in sorted(names)[:5])
