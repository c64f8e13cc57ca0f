"""Outputs that were saved earlier, behind the Runner contract: what is asked again is looked up by what was fed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mmtrt.errors import SampleError
from mmtrt.tensors import Array, Feeds, TensorSpec, array_digest

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SavedRunner"]

Rows = Iterable[tuple[Feeds, Mapping[str, Array]]]
"""Pairs of inputs and outputs."""


class SavedRunner:
    """Answers with the outputs that were saved for the same inputs, and with nothing else.

    `rows` yields a sample's inputs and outputs, neither with the batch axis: outputs are kept in memory while it is
    entered, inputs by their digests. `calls` maps the digest of whole feeds to what reads their outputs, or raises.
    """

    def __init__(
        self,
        what: str,
        runs: str,
        inputs: Sequence[TensorSpec],
        *,
        rows: Callable[[], Rows],
        calls: Mapping[str, Callable[[], Mapping[str, Array]]],
    ) -> None:
        self._what = what
        self._runs = runs
        self._inputs = tuple(inputs)
        self._read_rows = rows
        self._calls = calls
        self._rows: dict[str, list[Mapping[str, Array]]] = {}
        self._asked: Counter[str] = Counter()

    @property
    def runs(self) -> str:
        """What had run when the outputs were saved, as far as that is known."""
        return self._runs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs by which outputs are found."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, with the batch axis in front."""
        first = next(iter(self._rows.values()), [{}])[0]
        return tuple(
            TensorSpec(name=name, dtype=str(array.dtype), shape=("batch", *array.shape))
            for name, array in first.items()
        )

    def __enter__(self) -> Self:
        names = [tensor.name for tensor in self._inputs]
        for feeds, outputs in self._read_rows():
            self._rows.setdefault(_digest(feeds, names), []).append(outputs)
        return self

    def __exit__(self, *exc: object) -> None:
        self._rows = {}
        self._asked.clear()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Look a batch up, whole or by its samples; SampleError where it holds a sample that was not saved."""
        call = self._calls.get(array_digest(feeds))
        if call is not None:
            return dict(call())
        names = [tensor.name for tensor in self._inputs]
        count = len(next(iter(feeds.values())))
        rows = [self._row({name: feeds[name][index] for name in names}, names) for index in range(count)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _row(self, feeds: Feeds, names: Sequence[str]) -> Mapping[str, Array]:
        key = _digest(feeds, names)
        found = self._rows.get(key)
        if found is None:
            raise SampleError(
                f"{self._what} holds no outputs for one of the samples",
                fix="Check over the samples that it was made from, or record it again over these.",
            )
        # Where the same inputs come again, so do their outputs, in order: the first ones tell nothing of the others.
        self._asked[key] += 1
        return found[(self._asked[key] - 1) % len(found)]


def _digest(feeds: Feeds, names: Sequence[str]) -> str:
    return array_digest({name: feeds[name] for name in names})
