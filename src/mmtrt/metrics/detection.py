"""How right a map of peaks is: average precision, matched by the distance of centres."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.tensors import Array

__all__ = ["CenterAp", "local_maxima"]

_Found = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""Scores of an event's peaks `(P,)`, and which of them are right at each distance, `(D, P)`."""

_NEIGHBOURS: Final = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0))


@dataclass(slots=True)
class CenterAp:
    """Mean average precision over classes and over distances at which a peak still counts as a thing's centre.

    Heatmaps `(B, C, H, W)`, the higher the surer; labels `(B, M, 3)`: class, row and column of each thing, in cells,
    whole numbers being the centres of cells; rows of class -1 are none. The peaks of an event and a class are taken
    from the highest to the lowest, and each takes the nearest thing that is within the distance and not yet taken;
    then it is right. The precision of a recall is the best at this recall or beyond. As in nuScenes
    (arXiv:1903.11027), with distances in cells and all recalls counted. Scores are kept, 9 bytes a peak and distance.
    """

    distances: ClassVar[tuple[float, ...]] = (1.0, 2.0, 4.0)
    """In cells."""
    peaks: ClassVar[int] = 64
    """So many, the highest, count of an event and a class."""
    events: int = 0
    _found: dict[int, list[_Found]] = field(default_factory=dict)
    _things: list[NDArray[np.int64]] = field(default_factory=list)
    """How many there are of each class in each event."""

    def add(self, heatmaps: Array, labels: Array) -> None:
        """Add a batch; ValueError where shapes or classes don't belong together."""
        if heatmaps.ndim != 4 or labels.ndim != 3 or labels.shape[::2] != (len(heatmaps), 3):
            raise ValueError(f"heatmaps {heatmaps.shape} and labels {labels.shape} are not (B, C, H, W) and (B, M, 3)")
        kinds = labels[..., 0]
        if not np.isin(kinds, np.arange(-1, heatmaps.shape[1])).all():
            raise ValueError(f"a label is not one of the {heatmaps.shape[1]} classes")
        for heatmap, things in zip(heatmaps.astype(np.float64), labels, strict=True):
            for kind in range(len(heatmap)):
                self._add(kind, heatmap[kind], things[things[:, 0] == kind, 1:])
            self._things.append(np.array([(things[:, 0] == kind).sum() for kind in range(len(heatmap))]))
            self.events += 1

    def _add(self, kind: int, heatmap: NDArray[np.float64], centres: Array) -> None:
        """One class of one event."""
        rows, columns = np.nonzero(local_maxima(heatmap))
        order = np.argsort(-heatmap[rows, columns], kind="stable")[: self.peaks]
        places, scores = np.stack([rows, columns], axis=1)[order], heatmap[rows, columns][order]
        apart = np.linalg.norm(places[:, None] - centres[None].astype(np.float64), axis=2)
        right = np.stack([_matched(apart.copy(), distance) for distance in self.distances])
        self._found.setdefault(kind, []).append((scores, right))

    @property
    def value(self) -> float:
        """Over the classes of which there is a thing; NaN where there is none at all."""
        return float(self.resampled(np.ones((1, self.events), dtype=np.int64))[0]) if self.events else math.nan

    def resampled(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """See `TaskMetric`."""
        things = weights @ np.stack(self._things)
        each = np.stack([_average_precision(self._found[k], weights) for k in sorted(self._found)], axis=1)
        there = things > 0
        sums = np.where(there, each / np.maximum(things, 1), 0).sum(axis=1)
        return np.where(there.any(axis=1), sums / np.maximum(there.sum(axis=1), 1), math.nan)


def local_maxima(heatmap: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cells of `(H, W)` above each of their eight neighbours; of equal neighbours the first in reading order is.

    A cell that is NaN, or beside one that is, is none.
    """
    rows, columns = heatmap.shape
    around = np.pad(heatmap, 1, constant_values=-np.inf)
    highest = np.isfinite(heatmap)
    for row, column in _NEIGHBOURS:
        other = around[1 + row : 1 + row + rows, 1 + column : 1 + column + columns]
        highest &= heatmap > other if (row, column) < (0, 0) else heatmap >= other
    return np.asarray(highest)


def _matched(apart: NDArray[np.float64], distance: float) -> NDArray[np.bool_]:
    """Which peaks, from the highest down, `(P,)`, take a thing: `apart` is `(P, T)`, and is written to."""
    right = np.zeros(len(apart), dtype=np.bool_)
    for peak in range(len(apart) if apart.shape[1] else 0):
        nearest = int(apart[peak].argmin())
        if apart[peak, nearest] <= distance:
            right[peak] = True
            apart[:, nearest] = np.inf
    return right


def _average_precision(found: list[_Found], weights: NDArray[np.int64]) -> NDArray[np.float64]:
    """Area under precision over the count of what is found, the mean of all distances, `(R,)` for weights `(R, E)`.

    Peaks of one score count together, so that their order says nothing. Precision is highest where something is
    found, so that it is looked at there alone.
    """
    scores = np.concatenate([one for one, _ in found])
    right = np.concatenate([ones for _, ones in found], axis=1)
    of = np.repeat(np.arange(len(found)), [len(one) for one, _ in found])
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    places = [np.flatnonzero(row[order]) for row in right]
    # The end of the group of equal scores that each hit is in, and the last hit of that group.
    last = [ends[np.searchsorted(ends, hits)] for hits in places]
    closing = [np.searchsorted(hits, end, side="right") - 1 for hits, end in zip(places, last, strict=True)]
    areas = np.zeros(len(weights))
    for index, row in enumerate(weights if len(scores) else ()):
        times = row[of[order]]
        seen = np.cumsum(times)
        for hits, end, close in zip(places, last, closing, strict=True):
            if hits.size:
                precision = np.cumsum(times[hits])[close] / np.maximum(seen[end], 1)
                best = np.maximum.accumulate(precision[::-1])[::-1]
                areas[index] += float(best @ times[hits]) / len(places)
    return areas
