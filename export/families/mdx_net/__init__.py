"""MDX-Net: kuielab's ConvTDFNet, published as checkpoints and as .onnx files."""
