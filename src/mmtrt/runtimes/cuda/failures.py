"""What CUDA's errors mean to the user, and which of them cost the process its context."""

from __future__ import annotations

import re

from mmtrt.errors import MachineError

__all__ = ["CODES", "error_name", "failure", "loses_context"]

_LOSING = {
    214: "CUDA_ERROR_ECC_UNCORRECTABLE",
    220: "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    226: "CUDA_ERROR_CONTAINED",
    700: "CUDA_ERROR_ILLEGAL_ADDRESS",
    702: "CUDA_ERROR_LAUNCH_TIMEOUT",
    709: "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    710: "CUDA_ERROR_ASSERT",
    714: "CUDA_ERROR_HARDWARE_STACK_ERROR",
    715: "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    716: "CUDA_ERROR_MISALIGNED_ADDRESS",
    717: "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    718: "CUDA_ERROR_INVALID_PC",
    719: "CUDA_ERROR_LAUNCH_FAILED",
    721: "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    999: "CUDA_ERROR_UNKNOWN",
}
"""Codes after which each further call in the process fails with the same one."""

_CAPTURE = range(900, 909)
CODES = (2, 201, *_LOSING, *_CAPTURE)
"""The codes of the errors whose names say what to do."""

_FIXES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "Use smaller shapes or fewer contexts, or end what else runs on this GPU.",
    "CUDA_ERROR_INVALID_CONTEXT": "Call `activate` in each thread that uses the device.",
    "CUDA_ERROR_NOT_PERMITTED": "Run it without a CUDA graph: it holds work that can't be captured.",
}
_LOST = (
    "The CUDA context of this process is lost: end the process and start it again. "
    "CUDA_LAUNCH_BLOCKING=1 or compute-sanitizer shows which call did it."
)


def error_name(text: str) -> str:
    """Return CUDA's name of an error from a text that holds it; empty where there is none."""
    found = re.search(r"CUDA_ERROR_\w+", text)
    return found[0] if found else ""


def loses_context(text: str) -> bool:
    """Tell whether an error, by a text that holds its name, leaves the process without a usable context."""
    return error_name(text) in _LOSING.values()


def failure(call: str, reason: str, fix: str | None = None) -> MachineError:
    """Return the error for a call of CUDA's; `reason` holds CUDA's name of the error."""
    name = error_name(reason)
    if loses_context(reason):
        fix = _LOST
    elif "CAPTURE" in name:
        fix = _FIXES["CUDA_ERROR_NOT_PERMITTED"]
    return MachineError(f"{call} failed: {reason}", fix=fix or _FIXES.get(name))
