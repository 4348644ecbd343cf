"""What turns an MDX-Net's graph into an engine's: packing before the network, unpacking behind it."""

from collections.abc import Sequence

import numpy as np
import onnx_ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from rofo.export.families.mdx_net.onnx_folding import swap_input, swap_output

PACKED = 4  # channels of the network: L.re, L.im, R.re, R.im


def prefix_names(network: onnx_ir.Graph) -> None:
    """Make room for the names that `pack` and `unpack` add."""
    for value in (*network.inputs, *network.initializers.values()):
        value.name = f"network/{value.name}"
    for node in network:
        node.name = f"network/{node.name}"
        for value in node.outputs:
            value.name = f"network/{value.name}"


def pack(network: onnx_ir.Graph, shape: Sequence[int], dim_f: int, zero_bins: int) -> None:
    """Make `mix` (batch, 2, frames, bins, 2), of `shape`, the network's input instead of its packed one.

    The lowest `zero_bins` become 0, those from `dim_f` on are left out. Frames and bins are swapped only for
    a network that does not itself swap them back.
    """
    frames_first = swap_input(network)
    batch, _, frames, bins, _ = shape
    steps = _Steps("pack")
    mix = onnx_ir.val("mix", onnx_ir.DataType.FLOAT, shape)
    x = mix
    if (zero_bins, dim_f) != (0, bins):
        x = steps.add("Slice", x, [zero_bins], [dim_f], [3])
    if zero_bins:
        x = steps.add("Pad", x, [0, 0, 0, zero_bins, 0] + 5 * [0])
    x = steps.add("Transpose", x, perm=(0, 1, 4, 2, 3) if frames_first else (0, 1, 4, 3, 2))
    places = [frames, dim_f] if frames_first else [dim_f, frames]
    x = steps.add("Reshape", x, [batch, PACKED, *places])
    network.inputs[0].replace_all_uses_with(x)
    network.inputs[:] = [mix]
    network.insert_before(network[0], steps.into(network))


def unpack(network: onnx_ir.Graph, shape: Sequence[int], dim_f: int, compensate: float) -> None:
    """Make `stems` (batch, 1, 2, frames, bins, 2), of `shape`, the network's output, not its packed one.

    They are multiplied by `compensate`; bins from `dim_f` on are 0.
    """
    frames_first = swap_output(network)
    *outer, frames, bins, pair = shape
    steps = _Steps("unpack")
    x = network.outputs[0]
    if compensate != 1:
        x = steps.add("Mul", x, np.float32(compensate))
    places = [frames, dim_f] if frames_first else [dim_f, frames]
    x = steps.add("Reshape", x, [*outer, pair, *places])
    x = steps.add("Transpose", x, perm=(0, 1, 2, 4, 5, 3) if frames_first else (0, 1, 2, 5, 4, 3))
    if bins > dim_f:
        x = steps.add("Pad", x, 6 * [0] + [0, 0, 0, 0, bins - dim_f, 0])
    x.name, x.shape, x.type = "stems", onnx_ir.Shape(shape), onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    network.outputs[:] = [x]
    network.extend(steps.into(network))


class _Steps:
    """Nodes in the making, each named after its operator under a common prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix, self._tape = prefix, Tape()

    def add(
        self, operator: str, x: onnx_ir.Value, *constants: list[int] | np.float32, **attributes: Sequence[int]
    ) -> onnx_ir.Value:
        """The output of `operator` for x and constants, lists of which are int64."""
        name = f"{self._prefix}/{operator}"
        inputs = [self._constant(f"{name}/{i}", constant) for i, constant in enumerate(constants, start=1)]
        return self._tape.op(operator, [x, *inputs], attributes, name=name, output=onnx_ir.val(name))

    def into(self, graph: onnx_ir.Graph) -> list[onnx_ir.Node]:
        """Give the constants to `graph`; the nodes are left for the caller to put in their place."""
        for value in self._tape.initializers:
            graph.register_initializer(value)
        return list(self._tape.nodes)

    def _constant(self, name: str, numbers: list[int] | np.float32) -> onnx_ir.Value:
        values: NDArray[np.generic] = np.asarray(numbers)
        return self._tape.initializer(onnx_ir.tensor(values, name=name))
