"""What a run in parts has to remember: which nodes ran, who is still to read what, and the worst values on disk."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmtrt.parity.subgraphs import Part
from mmtrt.tensors import Array

__all__ = ["Kept", "Walk"]

_KEPT_BYTES = 256 << 20


class Kept:
    """The layers' own values that are worst, on disk: so many bytes of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)
        self._numbers = itertools.count()
        self._heap: list[tuple[float, int, str, int]] = []
        self._bytes = 0

    def add(self, tensor: str, sqnr_db: float, arrays: Sequence[Array]) -> None:
        """Keep a tensor's values, one array a feed, and drop the mildest where that is too much."""
        number, size = next(self._numbers), sum(array.nbytes for array in arrays)
        np.savez(self._folder / f"{number}.npz", *arrays)
        heapq.heappush(self._heap, (-sqnr_db, number, tensor, size))
        self._bytes += size
        while self._bytes > _KEPT_BYTES and len(self._heap) > 1:
            *_, dropped, _, size = heapq.heappop(self._heap)
            (self._folder / f"{dropped}.npz").unlink()
            self._bytes -= size

    def worst(self) -> list[tuple[str, Path]]:
        """Return the tensors, the worst first, and where their values are: `arr_0` of the first feed and so on."""
        return [(tensor, self._folder / f"{number}.npz") for _, number, tensor, _ in sorted(self._heap, reverse=True)]


class Walk:
    """One side's way through its graph: which nodes ran, and who has still to read what."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.left = list(part.moving)
        self._waiting = {name: set(readers) for name, readers in part.readers.items()}
        self.made = set(part.inputs)

    def done(self, indices: Sequence[int]) -> None:
        """Take these nodes for run."""
        ran = set(indices)
        self.left = [index for index in self.left if index not in ran]
        for index in indices:
            self.made.update(self.part.nodes[index].output)
            for name in self.part.needs(index):
                self._waiting[name].discard(index)

    def live_after(self, indices: Sequence[int]) -> set[str]:
        """Return what these nodes make that others will read."""
        ran = set(indices)
        made = {name for index in indices for name in self.part.nodes[index].output if name}
        return {name for name in made if self._waiting.get(name, set()) - ran}

    def forget(self, values: dict[str, Array]) -> None:
        """Drop what nobody will read."""
        for name in [name for name in values if not self._waiting.get(name)]:
            del values[name]
