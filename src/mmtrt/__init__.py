"""mmtrt takes trained PyTorch models that fuse several modalities to NVIDIA TensorRT, and proves each step."""

__version__ = "0.1.0"
