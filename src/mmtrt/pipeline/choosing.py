"""Which samples a check is over: those that were named, drawn at random, or that a side brings or lies beside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmtrt.artifacts import key_of
from mmtrt.errors import SampleError, UsageError
from mmtrt.samples import Sample, SampleSet, open_set, split_label
from mmtrt.samples.random import RANDOM, random_set
from mmtrt.tensors import Array, ModelSpec, array_digest

__all__ = ["Fed", "chosen_samples", "default_samples", "limited", "opened_early"]

_RANDOM_COUNT = 32


def default_samples(*texts: str) -> str:
    """Return the set that lies beside the first ONNX or engine that has one: `<stem>.calib`, else `<stem>.golden`."""
    for text in texts:
        path = Path(text)
        stem = path.name
        while stem:
            for suffix in ("calib", "golden"):
                folder = path.with_name(f"{stem}.{suffix}")
                if folder.is_dir():
                    return str(folder)
            # vqa.int8.engine, vqa.int8, vqa
            stem = stem.rpartition(".")[0]
    raise SampleError(
        f"there are no samples beside {' or '.join(texts)}", fix="Name a set with --samples; `mmtrt export` writes one."
    )


def opened_early(samples: str | SampleSet | None, count: int | None) -> SampleSet | None:
    """Open a set that is named: one that is misspelt is told before a model takes its time to load."""
    if isinstance(samples, str):
        return None if samples == RANDOM else open_set(samples, count=count)
    return samples


def chosen_samples(samples: str | None, count: int | None, sides: Sequence[str], spec: ModelSpec) -> SampleSet:
    """Return the set that is named, `random` within the model's ranges, or the one that lies beside a side.

    UsageError where random samples would have to invent a size.
    """
    if samples != RANDOM:
        return open_set(samples or default_samples(*sides), count=count)
    names = {dim for tensor in spec.inputs for dim in tensor.shape[1:] if isinstance(dim, str)}
    missing = ", ".join(sorted(names - spec.ranges.keys()))
    if missing:
        raise UsageError(
            f"{sides[0]} has sizes without a range, and random samples have no sizes of their own: {missing}",
            fix="Name a set with --samples, or check a model that `mmtrt export` gave ranges.",
        )
    return random_set(spec, count or _RANDOM_COUNT)


def limited(samples: SampleSet, count: int | None) -> SampleSet:
    """Return the first `count` samples of a set, all where None."""
    if count is None:
        return samples
    return replace(samples, count=count, key=key_of({"set": samples.key, "count": count}))


class Fed:
    """Passes samples on, and takes the digest of their inputs: wherever a set came from, what was fed is told by it."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for sample in self._samples:
            self._digest.update(array_digest(split_label(sample)[0]).encode())
            yield dict(sample)

    @property
    def digest(self) -> str:
        """SHA-256 over what was passed on, in order."""
        return self._digest.hexdigest()
