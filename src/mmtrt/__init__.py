"""mmtrt takes trained PyTorch models that fuse several modalities to NVIDIA TensorRT, and proves each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtrt.session import Session

__all__ = ["Session", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # The command line starts without what runs engines.
    if name == "Session":
        from mmtrt.session import Session

        return Session
    raise AttributeError(f"module 'mmtrt' has no attribute {name!r}")
