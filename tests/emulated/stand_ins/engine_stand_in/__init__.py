"""What the stand-ins of both TensorRTs share: engines that ONNX Runtime runs, in the order of CUDA streams."""
