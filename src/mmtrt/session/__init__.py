"""Runs a model from Python: a bundle, a deployment, an engine on the GPU, or an ONNX on the CPU, by named tensors."""

from mmtrt.session.running import Bound, Session

__all__ = ["Bound", "Session"]
