"""What is measured side by side, and how PyTorch comes into it: `--against torch` and `--against torch-compile`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from mmtrt.runtimes import Runner

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TORCH_KINDS", "Contender", "MakeTorchContender", "TellsNotes", "Told", "TorchKind", "Watch"]

TorchKind = Literal["torch", "torch-compile"]
TORCH_KINDS: tuple[TorchKind, ...] = ("torch", "torch-compile")
"""PyTorch as it stands, and by `torch.compile(mode="max-autotune")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What is called `file` in its rows, and the runner that is timed; a runner that is `Timeable` times itself.

    `precision` is `fp32`, `fp16` or `int8`, empty where nobody tells; `digest` is that of its content. Where one that
    `may_refuse` does so, the others are measured without it.
    """

    file: str
    runner: Runner
    precision: str = ""
    digest: str = ""
    may_refuse: bool = False


@runtime_checkable
class TellsNotes(Protocol):
    """A runner that has something to say to a reader of its row."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know, once it has run."""
        ...


class MakeTorchContender(Protocol):
    """`mmtrt.pipeline.torch_sides.torch_contender`: a source as a runner of PyTorch, on the GPU where there is one."""

    def __call__(
        self, source: str, checkpoint: Path | None, kind: TorchKind, precision: Literal["fp32", "fp16"]
    ) -> Runner:
        """Return a runner, not entered yet; loading the module and compiling wait until it is entered.

        It takes the feeds of the export, by name, and casts floats itself; on a GPU it is `Timeable`: its run is by
        `cuda_event`, and `cuda_graph` tells whether one is really replayed. `runs` says all that matters to a reader:
        `PyTorch 2.13.0 torch.compile max-autotune fp16 on NVIDIA H200`. InputError where the source can't be loaded,
        MachineError where the precision or the compiler needs what this machine lacks.
        """
        ...


class Told(Protocol):
    """What a machine's sensors told in a stretch of time: `mmtrt.bench.telemetry.Telemetry`."""

    def energy_mj_per_inference(self, inferences: int) -> float | None:
        """Return millijoules an inference, where nothing but these inferences ran in that time."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        ...


class Watch(Protocol):
    """Reads a machine's sensors while it is entered: `mmtrt.bench.telemetry.Sampler`."""

    why: str

    def between(self, start_s: float, stop_s: float) -> Told | None:
        """Return what was read between two moments of `time.perf_counter`; None where there is no reading at all."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
