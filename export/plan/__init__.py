"""From a typed graph to a TensorRT plan."""
