"""PyTorch as a contender in a benchmark: a module as it stands, or by `torch.compile`, in FP32 or FP16.

What it answers is compared once with the module in eager FP32, and told: a number of a model that is broken is none.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters

from mmtrt.errors import MachineError, MeasurementError
from mmtrt.metrics import Comparison
from mmtrt.runtimes.checks import check_feeds
from mmtrt.runtimes.eager import flat_tensors
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LoadedModule", "TorchRunner"]

_SHAPES = 256
"""Shapes that are each compiled for themselves; PyTorch would run the ninth one eagerly, and say nothing."""
_DOUBT_DB = 20.0
"""Below this, outputs are told to be others than those of eager FP32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModule:
    """A module in eval mode whose forward takes the inputs by name; `outputs` None where nobody named them."""

    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...] | None = None


class _Flat(torch.nn.Module):
    """Takes what the engine takes and gives a tuple, floats in FP32; `half` casts what goes into the module."""

    def __init__(self, module: torch.nn.Module, precision: str) -> None:
        super().__init__()
        self.module = module
        self.precision = precision

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run; the casts are part of what is compiled, as they are part of an engine."""
        if self.precision == "fp16":
            inputs = {name: value.half() if value.is_floating_point() else value for name, value in inputs.items()}
        leaves = flat_tensors(self.module(**inputs))
        return tuple(leaf.float() if leaf.dtype == torch.float16 else leaf for leaf in leaves)


class TorchRunner:
    """Fulfils `Runner` on the CPU, where its time is the caller's.

    `load` is called when it is entered; a shape is compiled when it is first run. MachineError where the compiler
    lacks what it needs; MeasurementError says why PyTorch refuses the model.
    """

    def __init__(
        self,
        load: Callable[[], LoadedModule],
        *,
        kind: Literal["torch", "torch-compile"],
        precision: Literal["fp32", "fp16"] = "fp32",
    ) -> None:
        self._load = load
        self._kind = kind
        self._asked = precision
        self._loaded: LoadedModule | None = None
        self._calls: dict[bool, Callable[..., tuple[torch.Tensor, ...]]] = {}
        self._known: set[Any] = set()
        self._notes: dict[str, str] = {}
        self._compile_s = 0.0
        self._graphs: Counter[str] = Counter()

    device = torch.device("cpu")

    @property
    def precision(self) -> Literal["fp32", "fp16"]:
        """What it computes in: on the CPU FP32, whatever was asked for."""
        return "fp32"

    @property
    def runs(self) -> str:
        """PyTorch's version, how it runs the module, in what and where."""
        return f"PyTorch {torch.__version__} {self._how} {self.precision} {self._where}"

    @property
    def _how(self) -> str:
        return "eager" if self._kind == "torch" else "torch.compile"

    @property
    def _where(self) -> str:
        return "CPU"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its row must know: how near it is to eager FP32, what compiling took."""
        found = list(self._notes.values())
        if self._graphs["unique_graphs"]:
            graphs, breaks = self._graphs["unique_graphs"], self._graphs["graph_break"]
            shapes = len(self._known)
            found.append(
                f"compiled in {self._compile_s:.1f} s: {graphs} graphs for {shapes} shapes, {breaks} graph breaks"
            )
        return tuple(found)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the order of `forward`."""
        return self._open.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs' names; a module tells neither dtypes nor shapes before it runs."""
        return tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in self._open.outputs or ())

    @property
    def _open(self) -> LoadedModule:
        if self._loaded is None:
            raise RuntimeError("the runner is used outside its with-block")
        return self._loaded

    def __enter__(self) -> Self:
        if self._kind == "torch-compile":
            self._check_compiler()
        if self._asked != self.precision:
            self._notes["precision"] = f"{self._asked} was asked for: on the CPU PyTorch is measured in FP32"
        loaded = self._load()
        self._loaded = LoadedModule(module=loaded.module.to(self.device), inputs=loaded.inputs, outputs=loaded.outputs)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loaded = None
        self._calls.clear()
        self._known.clear()
        if self._kind == "torch-compile":
            # The compiler keeps the module, its code and its graphs' memory alive.
            torch.compiler.reset()
        gc.collect()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once, without gradients; a shape that is new is compiled first."""
        check_feeds(feeds, self.inputs)
        tensors = self._tensors(feeds)
        call = self._ready(tensors, cuda_graph=False)
        with torch.inference_mode():
            leaves = call(**tensors)
        return self._named([leaf.cpu().numpy() for leaf in leaves])

    def _tensors(self, feeds: Feeds) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(np.asarray(feeds[name], order="C")).to(self.device) for name in feeds}

    def _named(self, leaves: Sequence[Array]) -> dict[str, Array]:
        names = self._open.outputs or [f"output_{index}" for index in range(len(leaves))]
        return dict(zip(names, leaves, strict=True))

    # ------------------------------------------------------------------------------------------ compiling

    def _ready(self, tensors: Mapping[str, torch.Tensor], *, cuda_graph: bool) -> Callable[..., Any]:
        """Return what runs these inputs, compiled for their shapes; compare its outputs the first time.

        MeasurementError with PyTorch's reason where it refuses.
        """
        key = (cuda_graph, *((name, value.shape) for name, value in sorted(tensors.items())))
        if cuda_graph in self._calls and key in self._known:
            return self._calls[cuda_graph]
        try:
            if not self._calls:
                reference = self._run(_Flat(self._open.module, "fp32"), tensors)
                if self.precision == "fp16":
                    self._open.module.half()
            if cuda_graph not in self._calls:
                self._calls[cuda_graph] = self._compiled(
                    _Flat(self._open.module, self.precision), cuda_graph=cuda_graph
                )
            first = "compared" not in self._notes
            outputs = self._first_run(self._calls[cuda_graph], tensors)
        except MachineError:
            raise
        except Exception as error:
            # The compiler's own line names who failed, the one below it what the matter was.
            reason = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
            raise MeasurementError(
                f"{self._how} in {self.precision} refuses the model: {type(error).__name__}: {reason[:300]}"
            ) from error
        if first:
            self._notes["compared"] = self._compared(reference, outputs)
        self._known.add(key)
        return self._calls[cuda_graph]

    def _compiled(self, module: torch.nn.Module, *, cuda_graph: bool) -> Callable[..., Any]:
        if self._kind == "torch":
            return module
        compiled: Callable[..., Any] = torch.compile(module, dynamic=False, mode=self._mode(cuda_graph=cuda_graph))
        return compiled

    def _mode(self, *, cuda_graph: bool) -> str | None:
        """On the CPU `max-autotune` tries C++ kernels for minutes, one compiler run each: its usual mode is taken."""
        del cuda_graph
        return None

    def _first_run(self, call: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> list[Array]:
        """Run a shape for the first time, and count what the compiler did."""
        before = _compiler_counts()
        start = time.perf_counter()
        with dynamo_config.patch(recompile_limit=_SHAPES):
            outputs = self._run(call, tensors)
        if self._kind == "torch-compile":
            self._compile_s += time.perf_counter() - start
            self._graphs += _compiler_counts() - before
        return outputs

    def _run(self, call: Callable[..., Any], tensors: Mapping[str, torch.Tensor]) -> list[Array]:
        with torch.inference_mode():
            return [leaf.detach().cpu().numpy().copy() for leaf in call(**tensors)]

    def _compared(self, reference: Sequence[Array], outputs: Sequence[Array]) -> str:
        """Say how near each output is to that of eager FP32."""
        told, doubts = [], []
        for name, ours in self._named(list(outputs)).items():
            comparison = Comparison()
            comparison.add(self._named(list(reference))[name], ours)
            found = comparison.sqnr_db
            lost = f" and {comparison.non_finite} values not finite" if comparison.non_finite else ""
            told.append(f"{name} {'exact' if found == math.inf else f'{found:.1f} dB'}{lost}")
            if lost or not found >= _DOUBT_DB:
                doubts.append(name)
        text = f"against eager FP32: {', '.join(told)}"
        return f"its outputs are not the model's: {text}" if doubts else text

    def _check_compiler(self) -> None:
        wanted = os.environ.get("CXX", "g++").split()[0]
        if not (shutil.which(wanted) or shutil.which("clang++")):
            raise MachineError(
                f"torch.compile needs a C++ compiler, and {wanted} is not there",
                fix="apt install g++, or leave torch-compile out.",
            )


def _compiler_counts() -> Counter[str]:
    found = Counter({"unique_graphs": int(counters["stats"]["unique_graphs"])})
    found["graph_break"] = sum(counters["graph_break"].values())
    found["cudagraph_skips"] = int(counters["inductor"]["cudagraph_skips"])
    return found
