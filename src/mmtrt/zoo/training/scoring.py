"""Task metrics of a model on a split, with one modality blinded or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from mmtrt.metrics import TaskMetric, make_task_metric
from mmtrt.zoo.data.batches import Batch
from mmtrt.zoo.data.collating import chunks, collate
from mmtrt.zoo.data.events import Sample

__all__ = ["Modalities", "commonest", "scored", "to_inputs"]

Modalities = Mapping[str, Sequence[str]]
"""Modality -> the inputs that carry it."""

_CHUNK: Final = 100


def to_inputs(batch: Batch, modalities: Modalities, blind: str) -> dict[str, Tensor]:
    """Inputs of a batch by name; those of the blinded modality are 0, their masks too."""
    inputs = {name: torch.from_numpy(batch[name]) for names in modalities.values() for name in names}
    return inputs | {name: torch.zeros_like(inputs[name]) for name in modalities.get(blind, ())}


def scored(
    model: nn.Module,
    samples: Iterable[Sample],
    metrics: Mapping[str, Sequence[str]],
    *,
    lengths: Mapping[str, int],
    modalities: Modalities,
    blind: str,
) -> dict[str, float]:
    """Metrics of a model in eval mode by name, "recall at 1" of an output "embeddings" as "embeddings recall at 1".

    `metrics` names those of each output, in the order in which the model returns them; the samples carry
    `label.<output>`. `lengths` is what the named inputs are padded to.
    """
    meters: dict[str, dict[str, TaskMetric]] = {
        output: {name: make_task_metric(name) for name in names} for output, names in metrics.items()
    }
    for chunk in chunks(samples, _CHUNK):
        batch = collate(chunk, lengths)
        with torch.inference_mode():
            told = model(**to_inputs(batch, modalities, blind))
        for (output, named), values in zip(meters.items(), (told,) if torch.is_tensor(told) else told, strict=True):
            for meter in named.values():
                meter.add(values.numpy(), batch[f"label.{output}"])
    return {
        f"{output} {name}".replace("_", " "): meter.value
        for output, named in meters.items()
        for name, meter in named.items()
    }


def commonest(samples: Iterable[Sample], output: str, kinds: int = 1) -> float:
    """Share that the commonest class of an output's labels makes up, `label.<output>` of shape ().

    Where the events take turns in so many `kinds`, the commonest class of each kind.
    """
    seen = [Counter[int]() for _ in range(kinds)]
    for index, sample in enumerate(samples):
        seen[index % kinds].update([int(sample[f"label.{output}"])])
    return sum(max(one.values()) for one in seen) / sum(one.total() for one in seen)
