"""How far boxes overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmtrt.tensors import Array

__all__ = ["box_overlaps"]


def box_overlaps(left: Array, right: Array, form: str) -> NDArray[np.float64]:
    """Return the intersection over union of boxes `(N, 4)` with those in the same row, `(N,)`, in 0 to 1.

    `form` is "xyxy", two opposite corners, or "cxcywh", centre and size. A box that is turned inside out has no area;
    two boxes without any are one where they are equal.
    """
    a, b = (_corners(boxes.astype(np.float64), form) for boxes in (left, right))
    both = np.clip(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0, None).prod(axis=1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (a, b)]
    union = areas[0] + areas[1] - both
    alike = (a == b).all(axis=1).astype(np.float64)
    return np.asarray(np.where(union > 0, both / np.where(union > 0, union, 1), alike))


def _corners(boxes: Array, form: str) -> Array:
    if form == "xyxy":
        return boxes
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.concatenate([centre - half, centre + half], axis=1)
