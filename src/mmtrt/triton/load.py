"""Golden samples for Triton's load generator: `perf_analyzer --input-data`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from mmtrt.tensors import Array
from mmtrt.triton.warm_up import raw_bytes

__all__ = ["load_data"]


def load_data(given: Sequence[Mapping[str, Array]]) -> dict[str, Any]:
    """Return `{"data": [...]}`, a row a request: each input's shape, and its raw little-endian bytes as base64.

    Bytes and not numbers: they are exact, and JSON's have no FP16. Outputs are left out, since perf_analyzer compares
    them bit by bit.
    """
    return {
        "data": [
            {
                name: {
                    "content": {"b64": base64.b64encode(raw_bytes(array)).decode("ascii")},
                    "shape": list(array.shape),
                }
                for name, array in arrays.items()
            }
            for arrays in given
        ]
    }
