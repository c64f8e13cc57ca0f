"""From a PyTorch module to a verified ONNX file: sources, dynamic axes, tracing, verification."""
