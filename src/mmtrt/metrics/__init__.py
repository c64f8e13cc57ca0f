"""How far one output is from another, and how right an output is: added batch by batch. Needs numpy only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mmtrt.metrics.comparison import METRICS, Comparison
from mmtrt.metrics.detection import CenterAp
from mmtrt.metrics.fills import as_infinities
from mmtrt.metrics.heads import KINDS
from mmtrt.metrics.ranking import Auroc, HitAt5, RecallAt1
from mmtrt.metrics.task import F1, IGNORED, Accuracy, ExactPhrase, TaskMetric

__all__ = [
    "IGNORED",
    "KINDS",
    "METRICS",
    "TASK_METRICS",
    "Comparison",
    "TaskMetric",
    "as_infinities",
    "make_task_metric",
]

TASK_METRICS: Mapping[str, Callable[[], TaskMetric]] = MappingProxyType(
    {
        "accuracy": Accuracy,
        "f1": F1,
        "exact_phrase": ExactPhrase,
        "hit_at_5": HitAt5,
        "auroc": Auroc,
        "recall_at_1": RecallAt1,
        "center_ap": CenterAp,
    }
)
"""Name -> class; a recipe names them under `parity.metrics`, a budget holds their loss as `<name>_drop`."""


def make_task_metric(name: str) -> TaskMetric:
    """Return a fresh metric; an unknown name is a KeyError."""
    return TASK_METRICS[name]()
