"""Checkpoint to ONNX to TensorRT. Needs torch; `rofo` itself never imports this package."""
