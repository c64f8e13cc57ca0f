"""A source as PyTorch runs it, beside engines in a benchmark; apart, since nothing else there needs PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmtrt.bench.contenders import TorchKind
from mmtrt.export.sources import load_source
from mmtrt.runtimes import Runner
from mmtrt.runtimes.torch_cuda import torch_runner
from mmtrt.runtimes.torch_module import LoadedModule

__all__ = ["torch_contender"]


def torch_contender(
    source: str, checkpoint: Path | None, kind: TorchKind, precision: Literal["fp32", "fp16"]
) -> Runner:
    """Fulfil `mmtrt.bench.contenders.MakeTorchContender`."""

    def load() -> LoadedModule:
        # Each contender has a module of its own: casting to FP16 changes it.
        found = load_source(source, checkpoint)
        return LoadedModule(module=found.module, inputs=found.inputs, outputs=found.outputs)

    return torch_runner(load, kind=kind, precision=precision)
