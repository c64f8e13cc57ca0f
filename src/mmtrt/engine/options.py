"""How an engine is built: what the builder is told, and nothing that changes what the model means."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mmtrt.errors import UsageError

__all__ = ["BuildOptions", "HardwareCompatibility", "Typing"]

HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]
Typing = Literal["strong", "weak", "auto"]
_LEVELS = range(6)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Settings of one build; what a flavour has no use for is passed by, with a note in the result.

    `flavor` is `auto`, `tensorrt` or `tensorrt-rtx`; `workspace_mib` caps the memory of tactics, in MiB;
    `optimization_level` is 0 to 5; `timing_cache` is a file that TensorRT reads and writes;
    `compute_capability` is what TensorRT-RTX compiles for (`SM89`, `CURRENT`), None for all that it is
    portable over. `typing` is `weak` only for TensorRT releases whose strong typing does not take the model, and
    `auto` tries `strong` first, then `weak` where there is such a thing. `dla_core` is the DLA core to build for, None
    for the GPU; with `gpu_fallback` the GPU takes the layers that DLA does not.
    """

    flavor: str = "auto"
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    compute_capability: str | None = None
    typing: Typing = "strong"
    dla_core: int | None = None
    gpu_fallback: bool = True
    target: str | None = None

    def __post_init__(self) -> None:
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"workspace_mib is {self.workspace_mib}", fix="It is a size in MiB, 1 or more.")
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise UsageError(f"optimization_level is {self.optimization_level}", fix="It is 0, 1, 2, 3, 4 or 5.")
        if self.dla_core is not None and self.dla_core < 0:
            raise UsageError(f"dla_core is {self.dla_core}", fix="It is the number of a core: 0 or 1; none is the GPU.")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; the timing cache by its name, since a path tells of one machine only."""
        data = asdict(self)
        data["timing_cache"] = self.timing_cache.name if self.timing_cache else None
        return data
