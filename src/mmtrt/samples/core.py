"""What a sample is, and a set of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mmtrt.errors import MmtrtError, SampleError
from mmtrt.tensors import Array, array_digest

__all__ = ["FEW_SAMPLES", "LABEL", "OUTPUT", "Sample", "SampleSet", "parted", "split_label", "with_prefix"]

LABEL = "label."
OUTPUT = "output."
"""What a golden sample's PyTorch outputs are kept under."""
FEW_SAMPLES = 32
"""Fewer samples than this and a calibration warns."""

Sample = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """A set of samples that can be read again and again.

    `source` says where it comes from; `key` is the digest of what the samples depend on; `count` is how
    many were asked for, None where the source itself ends.
    """

    source: str
    key: str
    read: Callable[[], Iterable[Sample]] = field(repr=False)
    count: int | None = None
    digest: str | None = None
    on_data: bool = True
    by_content: bool = True
    """Whether `key` tells what the samples hold; of a function it tells the code, and not what that reads."""
    read_inputs: Callable[[], Iterable[Sample]] | None = field(default=None, repr=False)
    """Reads the same samples without labels and golden outputs, where that is quicker."""

    def inputs_only(self) -> SampleSet:
        """Return the set for a use that needs no labels; one that has to match a digest is read whole."""
        if self.read_inputs is None or self.digest is not None:
            return self
        return replace(self, read=self.read_inputs)

    def content_key(self) -> str:
        """Return what tells these very samples from others: `key`, or where that does not, a digest of all of them."""
        if self.by_content:
            return self.key
        digest = hashlib.sha256(self.key.encode())
        for sample in self:
            digest.update(array_digest(sample).encode())
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples; SampleError where there are none, fewer than asked, or others than declared."""
        seen = 0
        digest = hashlib.sha256() if self.digest else None
        for arrays in _named_errors(self.read, self.count, self.source):
            if digest:
                digest.update(array_digest(arrays).encode())
            seen += 1
            yield arrays
        if not seen:
            raise SampleError(f"{self.source} holds no samples", fix="A set needs at least one sample.")
        if self.count is not None and seen < self.count:
            raise SampleError(
                f"{self.source} gives {seen} samples where {self.count} were asked for",
                fix="Ask for fewer, or find out why the others are missing.",
            )
        if digest and digest.hexdigest() != self.digest:
            raise SampleError(
                f"{self.source} yields other samples than its digest says",
                fix=f'If the change is meant, set digest = "{digest.hexdigest()}".',
            )


def parted(samples: SampleSet, every: int, *, at_most: int) -> tuple[SampleSet, SampleSet]:
    """Part a set: every `every`-th sample, `at_most` so many of them, and all the others; returns the others first."""

    def judges(index: int) -> bool:
        return index % every == every - 1 and index < every * at_most

    def part(name: str, wanted: Callable[[int], bool]) -> SampleSet:
        def read(given: SampleSet) -> Iterator[Sample]:
            return (sample for index, sample in enumerate(given) if wanted(index))

        return SampleSet(
            source=samples.source,
            key=f"{samples.key}:{name}:{every}:{at_most}",
            read=lambda: read(samples),
            read_inputs=lambda: read(samples.inputs_only()),
            on_data=samples.on_data,
            by_content=samples.by_content,
        )

    return part("others", lambda index: not judges(index)), part("every", judges)


def _named_errors(read: Callable[[], Iterable[Sample]], count: int | None, source: str) -> Iterator[dict[str, Array]]:
    """Yield what `read` gives as arrays; whatever the source raises becomes a SampleError that names the sample."""
    samples: Iterator[Sample] | None = None
    for index in itertools.count():
        try:
            if samples is None:
                samples = itertools.islice(iter(read()), count)
            arrays = _arrays(next(samples), f"{source}: sample {index}")
        except StopIteration:
            return
        except MmtrtError:
            raise
        except (Exception, SystemExit) as error:
            raise SampleError(f"{source}: sample {index} could not be read: {type(error).__name__}: {error}") from error
        yield arrays


def _arrays(sample: Any, which: str) -> dict[str, Array]:
    if not isinstance(sample, Mapping):
        raise SampleError(
            f"{which} is a {type(sample).__name__}, not a dict of arrays",
            fix="Yield {input name: array without the batch axis}.",
        )
    for name in sample:
        if not isinstance(name, str):
            raise SampleError(f"{which} has the key {name!r}, which is no name", fix="Keys are the inputs' names.")
    return {name: np.asarray(value) for name, value in sample.items()}


def split_label(sample: Sample) -> tuple[dict[str, Array], dict[str, Array]]:
    """Part a sample into its inputs and its labels (without their prefix); golden outputs are left out."""
    inputs = {name: array for name, array in sample.items() if not name.startswith((LABEL, OUTPUT))}
    return inputs, with_prefix(sample, LABEL)


def with_prefix(sample: Sample, prefix: str) -> dict[str, Array]:
    """Return the entries whose key starts with `prefix`, without it."""
    return {name[len(prefix) :]: array for name, array in sample.items() if name.startswith(prefix)}
