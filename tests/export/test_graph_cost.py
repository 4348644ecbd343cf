"""What a convolution costs."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from rofo.export.graph.cost import graph_cost


def test_convolutions_cost_their_weights_once_per_place(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["mix", "w"], ["a"], strides=[1, 2], pads=[1, 1, 1, 1], group=2),
        helper.make_node("ConvTranspose", ["a", "up"], ["stems"], strides=[2, 2]),
    ]
    shapes = {"w": (6, 2, 3, 3), "up": (6, 5, 2, 2)}
    weights = [
        helper.make_tensor(
            name, TensorProto.FLOAT, dims, bytes(4 * 6 * dims[1] * dims[2] * dims[3]), raw=True
        )
        for name, dims in shapes.items()
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in {"mix": (1, 4, 8, 10), "stems": (1, 5, 16, 10)}.items()
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 23)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "g.onnx")
    cost = graph_cost(tmp_path / "g.onnx")
    # Each of 6 x 8 x 5 sums takes 2 of the 4 inputs at 9 places; each of these then spreads to 5 x 2 x 2.
    assert cost.flop == 2 * (6 * 8 * 5) * (2 * 9) + 2 * (6 * 8 * 5) * (5 * 2 * 2)
    assert cost.weights == 4 * (6 * 2 * 9 + 6 * 5 * 4)
    assert cost.live == 4 * (6 * 8 * 5 + 5 * 16 * 10)
