"""Any file a user gives -> weights or a graph; nothing in it is trusted."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from torch import Tensor


@dataclass(frozen=True)
class Source:
    """What a file holds: the weights of a checkpoint, or the graph of an .onnx file.

    `state` maps the network's own key names to CPU tensors in the dtype they were saved in; whoever builds
    from it empties it, so that no second copy of the weights is ever in memory. `graph` is a whole ONNX model
    with its weights in memory, None for a checkpoint. `tail_md5` is the MD5 of the last 10,240,000 bytes, by
    which UVR's tables know a file. `hyper_parameters` is plain JSON data from a Lightning file, else empty.
    """

    path: Path
    sha256: str
    tail_md5: str
    state: dict[str, Tensor] = field(default_factory=dict)
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    graph: onnx.ModelProto | None = None


def read_source(path: Path, *, unsafe_pickle: bool = False) -> Source:
    """Read a checkpoint or an .onnx file, judged by its content.

    Pickled code runs only with `unsafe_pickle`. Raises CheckpointError for all else, saying what it is.
    """
    from rofo.export.source.checkpoint import load_checkpoint
    from rofo.export.source.file_kind import digests, file_kind
    from rofo.export.source.onnx_file import load_weights, parse_onnx

    if file_kind(path) != "onnx":
        return load_checkpoint(path, unsafe_pickle=unsafe_pickle)
    model = parse_onnx(path)
    load_weights(path, model)
    return Source(path, *digests(path), graph=model)
