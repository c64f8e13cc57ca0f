"""`hf:DIRECTORY_OR_ID`: a factory's parts (module, inputs, dynamic axes, extra) for a model of transformers."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from mmtrt.errors import ModelError
from mmtrt.export.hf import blip_answering
from mmtrt.export.hf.facts import Facts, read_facts
from mmtrt.export.hf.families import Family, family_of
from mmtrt.export.hf.inputs import input_names, stream_choices
from mmtrt.export.hf.loading import WRITE_ONE, load_config, load_model, model_class, resolved
from mmtrt.export.hf.streams import BATCH, Fill, Stream
from mmtrt.export.hf.wrapper import Named, named, told_of
from mmtrt.parts.declared import Pipeline
from mmtrt.samples import Sample
from mmtrt.tensors import Array

__all__ = ["factory"]

Factory = tuple[torch.nn.Module, dict[str, Array], dict[str, dict[int, str]], dict[str, Any]]
_PIPELINES: Mapping[str, Callable[[Any], Pipeline]] = {"BlipForQuestionAnswering": blip_answering.pipeline_of}
"""Classes whose answer is written word by word: no single graph gives it."""
_SEED = 2026
_BATCHES = ((1, 2, 8), (1, 1, 1))
"""Batches of a model that tells no kind; some take one event only."""
_SILENT = {"use_cache": False, "return_dict": True}
"""What each call says where `forward` takes it: no caches among the outputs, and outputs with names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A wrapped model that runs, and the streams of its inputs."""

    module: Named
    names: tuple[str, ...]
    streams: tuple[Stream, ...]
    batch: tuple[int, int, int]

    @property
    def ranges(self) -> dict[str, tuple[int, int, int]]:
        spans = {name: span for stream in self.streams for name, span in stream.ranges.items()}
        return {BATCH: self.batch, **spans}


def factory(name: str) -> Factory | Pipeline:
    """Load a model by folder or hub name; one that writes its answer word by word becomes a pipeline.

    MmtrtError says what stands in the way and how to mend it.
    """
    place = resolved(name)
    config = load_config(place)
    kind = model_class(place, config)
    model = load_model(place, kind)
    if kind.__name__ in _PIPELINES:
        return _PIPELINES[kind.__name__](model)
    family = family_of(kind.__name__)
    facts = read_facts(place, config)
    made = _running(f"hf:{name}", model, facts, family)
    streams = made.streams
    inputs = {key: np.stack([row[key] for row in _examples(made)]) for key in made.names}
    extra: dict[str, Any] = {
        "modalities": {stream.name: [key for key in made.names if key in stream.axes] for stream in streams},
        "outputs": list(made.module.outputs),
        "ranges": {size: list(span) for size, span in made.ranges.items()},
        "samples": _Drawn(made),
        # A picture of which nothing counts has no size, and its model fails: what is absent there is zeros.
        "masks": [key for key in made.names if key.endswith("attention_mask")],
    }
    axes = {key: dict(named) for stream in streams for key, named in stream.axes.items() if key in made.names}
    return made.module, inputs, axes, extra


def _running(reference: str, model: torch.nn.Module, facts: Facts, family: Family | None) -> _Made:
    """Find inputs that the model takes; ModelError tells what it said to each way that was tried."""
    part = family.part(model) if family and family.part else model
    names = input_names(reference, part, family)
    takes = inspect.signature(part.forward).parameters
    constants = {key: value for key, value in _SILENT.items() if key in takes}
    constants |= family.constants if family else {}
    told = told_of(facts.config, facts.picture, facts.sound, facts.tokenizer, facts.ids)
    said: list[str] = []
    batches = (family.batch,) if family else _BATCHES
    for batch, ends_stay in itertools.product(batches, (False, True)):
        for streams in stream_choices(facts, part, names, family, ends_stay=ends_stay):
            given = tuple(name for name in names if any(name in stream.axes for stream in streams))
            adapts = [family.adapt if family else None, *(stream.adapt for stream in streams)]
            adapt = next(filter(None, adapts), None)
            module = named(part, given, constants=constants, adapt=adapt, told=told)
            made = _Made(module=module, names=given, streams=streams, batch=batch)
            trouble = _try(made, family)
            if trouble is None:
                return made if family else _narrowed(made)
            said.append(trouble)
    raise ModelError(
        f"{reference}: {type(part).__name__} refuses the inputs {', '.join(names)}: {'; '.join(dict.fromkeys(said))}",
        fix=WRITE_ONE,
    )


def _try(made: _Made, family: Family | None) -> str | None:
    """Run two events, then one that lacks each modality; name the outputs. Returns what went wrong."""
    try:
        found = _call(made, _examples(made))
        for stream in made.streams:
            _call(made, [_event(made, 0, {stream.name: Fill.ABSENT})])
    except MemoryError:
        raise  # It says nothing of the inputs.
    except Exception as error:  # noqa: BLE001 -- whatever the model raises is the answer
        shapes = ", ".join(f"{key} {tuple(array.shape)}" for key, array in _examples(made)[0].items())
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (at {shapes})"
    wanted = family.outputs if family else ()
    made.module.outputs = tuple(name for name in wanted if name in found) or tuple(found)
    return None if found else "it returns no tensor"


def _narrowed(made: _Made) -> _Made:
    """Bring the largest sizes, which nobody promised, down to what the model takes."""
    streams = []
    for stream in made.streams:
        spans = {name: _largest(made, name, span) for name, span in stream.ranges.items()}
        streams.append(replace(stream, ranges=spans))
    return replace(made, streams=tuple(streams))


def _largest(made: _Made, name: str, span: tuple[int, int, int]) -> tuple[int, int, int]:
    good, bad, tried = span[1], span[2] + 1, span[2]
    while good < tried:
        try:
            _call(made, [_event(made, 0, {}, {name: tried})])
            good = tried
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 -- a size that the model refuses, whatever it raises
            bad = tried
        tried = (good + bad) // 2
    return span[0], span[1], good


def _call(made: _Made, events: list[dict[str, Array]]) -> dict[str, torch.Tensor]:
    batch = {key: torch.from_numpy(np.stack([event[key] for event in events])) for key in made.names}
    with torch.inference_mode():
        return made.module.call(batch)


def _examples(made: _Made) -> list[dict[str, Array]]:
    """Two events of the usual size, the second padded; one where the model takes no more."""
    fills = (Fill.WHOLE, Fill.PADDED)[: made.batch[2]]
    return [_event(made, i, {stream.name: fill for stream in made.streams}) for i, fill in enumerate(fills)]


def _event(
    made: _Made, seed: int, fills: Mapping[str, Fill], sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    rng = np.random.default_rng((_SEED, seed))
    usual = {name: span[1] for name, span in made.ranges.items()}
    drawn: dict[str, Array] = {}
    for stream in made.streams:
        drawn |= stream.draw(rng, {**usual, **(sizes or {})}, fills.get(stream.name, Fill.WHOLE))
    return {key: drawn[key] for key in made.names}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Events within what the model takes: short and long, padded, and one in eight without one modality.

    They are drawn from the configuration: what is calibrated on them says that it was not calibrated on data.
    """

    made: _Made
    on_data: ClassVar[bool] = False

    def __call__(self, count: int = 256) -> Iterator[Sample]:
        """Yield `count` events, the same each time."""
        made = self.made
        names = [stream.name for stream in made.streams]
        for index in range(count):
            rng = np.random.default_rng((_SEED, 1, index))
            sizes = {name: _size(rng, index, span) for name, span in made.ranges.items() if name != BATCH}
            fills = dict.fromkeys(names, Fill.PADDED if index % 3 == 0 else Fill.WHOLE)
            if index % 8 == 5:
                fills[names[index // 8 % len(names)]] = Fill.ABSENT
            yield _event(made, 1000 + index, fills, sizes)


def _size(rng: np.random.Generator, index: int, span: tuple[int, int, int]) -> int:
    """Mostly up to twice the usual size; one in sixteen is the longest, one the shortest."""
    low, usual, high = span
    if index % 16 == 3:
        return high
    if index % 16 == 11:
        return low
    return int(rng.integers(low, min(2 * usual, high) + 1))
