"""What an output is, and so which metrics mean something of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mmtrt.tensors import Array

__all__ = ["KINDS", "UNKNOWN", "guessed_kind", "metrics_of"]

UNKNOWN = ""
"""The kind of an output of which nothing is said: floats of any meaning."""

_LOGITS = frozenset({"argmax_agreement", "rank_correlation", "probability_distance", "explained_variance"})

KINDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "classes": _LOGITS,
        "multilabel": frozenset({"rank_correlation", "probability_distance", "explained_variance"}),
        "regression": frozenset({"explained_variance", "worst_explained_variance"}),
        "ranking": frozenset({"argmax_agreement", "rank_correlation", "explained_variance"}),
        "embedding": frozenset({"explained_variance"}),
        "heatmap": frozenset({"explained_variance"}),
        "boxes-xyxy": frozenset({"explained_variance", "box_iou"}),
        "boxes-cxcywh": frozenset({"explained_variance", "box_iou"}),
        "integers": frozenset({"value_agreement"}),
    }
)
"""Kind -> the metrics that it has beside those of the error itself.

`classes`: logits over the last axis of which one is right, or a single logit of yes or no; `multilabel`: logits that
each say yes or no; `regression`: numbers, a channel of the last axis each its own; `ranking`: scores over the last axis
whose order counts; `embedding`: vectors to be compared; `heatmap`: a map of scores; `boxes-xyxy` and `boxes-cxcywh`:
four numbers over the last axis; `integers`: ids, counts, masks.
"""


def guessed_kind(array: Array) -> str:
    """Return `integers` for integers and booleans, else `UNKNOWN`: logits and coordinates look alike."""
    return UNKNOWN if array.dtype.kind in "fc" else "integers"


def metrics_of(kind: str) -> frozenset[str]:
    """Return what is measured of a kind; of floats of unknown meaning all that says something of some floats."""
    return KINDS[kind] if kind else _LOGITS
