"""Models in several parts: encoder, fuser, decoder step, each an engine of its own; their tensors feed one another.

A factory returns a `Pipeline`; once its parts are known it becomes a `Wiring`; a `Chain` runs the parts, whatever runs
each of them. Nothing here needs PyTorch, ONNX or a GPU.
"""

from mmtrt.parts.chain import Answer, Chain
from mmtrt.parts.declared import Pipeline, Step
from mmtrt.parts.manifest import Manifest, read_manifest, write_manifest
from mmtrt.parts.wiring import TOKENS, Port, Wiring

__all__ = [
    "TOKENS",
    "Answer",
    "Chain",
    "Manifest",
    "Pipeline",
    "Port",
    "Step",
    "Wiring",
    "read_manifest",
    "write_manifest",
]
