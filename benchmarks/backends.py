"""What a comparison needs to know of rofo's backends."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """`file` is the kind of engine file it runs, `precisions` those it computes in, else that of the file."""

    file: str
    precisions: tuple[str, ...] = ()
    on_gpu: bool = False


BACKENDS = {
    "openvino": Backend("onnx", ("fp32", "bf16")),
    "onnxruntime": Backend("onnx", ("fp32",)),
    "onnxruntime-cuda": Backend("onnx", ("fp32",), on_gpu=True),
    "tensorrt-rtx": Backend("tensorrt-rtx", on_gpu=True),
    "tensorrt": Backend("tensorrt", on_gpu=True),
}
