"""ONNX to engine: which TensorRT, settings, the build in its own process, the engine's manifest."""
