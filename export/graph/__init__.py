"""From a network to an ONNX graph that is proved to do the same."""
