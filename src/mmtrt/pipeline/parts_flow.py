"""Events run through a pipeline part by part: what each part is really fed lies in a folder of samples.

A part is fed what the parts before it gave, each as whatever stands for it: the PyTorch module, or the ONNX as it was
converted. Events of equal shapes run together, none is padded for it. Each folder is a stage of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmtrt.artifacts import key_of
from mmtrt.errors import SampleError
from mmtrt.export.exporter import CALIBRATION_SAMPLES, own_samples
from mmtrt.export.parts import PipelineSource
from mmtrt.parts.chain import Chain
from mmtrt.parts.declared import Step
from mmtrt.parts.greedy import generate
from mmtrt.parts.grouping import in_order, most_rows, stacked
from mmtrt.parts.wiring import Port, Wiring
from mmtrt.pipeline.checking import versions
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import Subject
from mmtrt.results import plain
from mmtrt.runtimes import Runner
from mmtrt.samples import OUTPUT, Sample, SampleSet, checked, open_set, write_samples
from mmtrt.tensors import Array, Feeds, ModelSpec

__all__ = ["Flow", "events_of", "golden_events"]

_SET = "samples"


def events_of(source: PipelineSource, reference: str | None, count: int | None) -> SampleSet:
    """Return a set's events where one is named, else the source's own, else its example inputs one by one."""
    if reference is not None:
        return open_set(reference, count=count)
    wanted = count or CALIBRATION_SAMPLES
    if source.samples is not None:
        own = own_samples(source.reference, source.samples, wanted)
        key = key_of({"source": source.digest, "count": wanted, "on_data": own.on_data})
        return replace(own, key=key, count=count)
    sizes = {len(array) for array in source.examples.values()}
    if len(sizes) != 1:
        raise SampleError(
            f"{source.reference}: the example inputs have no common batch axis", fix="Let the pipeline offer samples."
        )
    rows = [{name: array[i] for name, array in source.examples.items()} for i in range(sizes.pop())]
    return SampleSet(source=f"the examples of {source.reference}", key=source.digest, read=lambda: rows)


def _about(samples: SampleSet, **more: Any) -> dict[str, Any]:
    """Return what is written beside samples that were made of others: that these are no data goes with them."""
    return {"source": samples.source, **more, **({} if samples.on_data else {"on_data": False})}


class Flow:
    """A set of events on its way; `subjects` says what stands for a part, and is filled as the parts become known."""

    def __init__(self, context: Context, wiring: Wiring, events: SampleSet) -> None:
        self._context = context
        self._wiring = wiring
        self._events = events
        self._given: dict[str, SampleSet] = {}
        self.subjects: dict[str, Subject] = {}

    def feeds(self, part: str) -> Path:
        """Return the folder of what a part is fed, a sample an event; of a step, samples of several of its steps.

        A step is run by its own subject to get there: its cache at step n holds what it gave itself before.
        """
        step = self._wiring.step
        steps = step is not None and step.part == part
        fed_by = sorted({source.part for target, source in self._wiring.links.items() if target.part == part})
        parts = {
            "part": part,
            "events": self._events.key,
            "links": [str(link) for link in self._wiring.links.items()],
            "spec": self._wiring.parts[part].to_json(),
            "fed": [self._outputs(name).key for name in fed_by],
            "step": [plain(self._wiring.to_json()["step"]), self.subjects[part].key, versions()] if steps else None,
        }

        def work(folder: Path) -> None:
            self._context.stage(f"what {part} is fed")
            about = _about(self._events, fed_by={name: self.subjects[name].what for name in fed_by})
            write_samples(folder / _SET, self._steps(part) if steps else self._feeds(part), about=about)

        return self._context.cache.run("feeds", parts, work)[0] / _SET

    def _outputs(self, part: str) -> SampleSet:
        """Return what a part gives, a sample an event."""
        if part not in self._given:
            feeds, subject = open_set(str(self.feeds(part))), self.subjects[part]

            def work(folder: Path) -> None:
                self._context.stage(f"{part} over {feeds.source}, by {subject.what}")
                with subject.exact() as runner:
                    about = _about(feeds, by=subject.what)
                    write_samples(folder / _SET, self._given_by(part, runner, feeds), about=about)

            parts = {"feeds": feeds.key, "by": subject.key, "versions": versions()}
            folder, _ = self._context.cache.run("outputs", parts, work)
            self._given[part] = open_set(str(folder / _SET))
        return self._given[part]

    def _given_by(self, part: str, runner: Runner, feeds: SampleSet) -> Iterator[dict[str, Array]]:
        spec = self._wiring.parts[part]
        names = [tensor.name for tensor in spec.inputs]

        def run(samples: Sequence[Sample]) -> list[dict[str, Array]]:
            told = runner.infer(stacked(samples, names))
            return [{name: array[row] for name, array in told.items()} for row in range(len(samples))]

        return (told for _, told in in_order(feeds, names, most_rows(spec), run))

    def _feeds(self, part: str) -> Iterator[dict[str, Array]]:
        """Yield what a part is fed from outside and by links, an event at a time, without the batch axis."""
        sources = sorted({source.part for target, source in self._wiring.links.items() if target.part == part})
        events = checked(self._events, self._wiring.spec, note=self._context.note)
        for event, *told in zip(events, *(self._outputs(name) for name in sources), strict=True):
            known = {
                Port(name, tensor): a for name, row in zip(sources, told, strict=True) for tensor, a in row.items()
            }
            yield self._wiring.feeds_of(part, event, known)

    def _steps(self, part: str) -> Iterator[dict[str, Array]]:
        """Yield what a step is fed, at some of the steps of each event: early ones and late ones alike."""
        step, spec = self._wiring.step, self._wiring.parts[part]
        assert step is not None  # noqa: S101 -- the caller asked
        names = [tensor.name for tensor in spec.inputs if tensor.name not in self._wiring.own_of_step(part)]
        each = max(1, CALIBRATION_SAMPLES // max(1, sum(1 for _ in self._feeds(part))))
        with self.subjects[part].exact() as runner:

            def run(samples: Sequence[Sample]) -> list[list[Sample]]:
                return _seen(step, spec, runner, stacked(samples, names))

            found = in_order(self._feeds(part), names, most_rows(spec), run)
            for index, (_, seen) in enumerate(found):
                # Another start for each event: all of its steps are shown where there is room for them.
                for which in sorted({(index + offset) % len(seen) for offset in range(min(each, len(seen)))}):
                    yield dict(seen[which])


def _seen(step: Step, spec: ModelSpec, runner: Runner, given: Feeds) -> list[list[Sample]]:
    """Return what each row is fed at each of its steps until its phrase has ended, without the batch axis."""
    seen: list[list[Sample]] = [[] for _ in next(iter(given.values()))]

    def watch(feeds: Feeds, going: Array) -> None:
        for row in np.flatnonzero(going):
            seen[row].append({name: array[row] for name, array in feeds.items()})

    generate(step, spec, runner, given, watch=watch)
    return seen


def golden_events(
    context: Context, wiring: Wiring, subjects: Mapping[str, Subject], events: SampleSet, count: int | None
) -> Path:
    """Return a folder of events with what the pipeline gives for each: its outputs, of a step logits and tokens too."""
    parts = {
        "events": events.key,
        "count": count,
        "subjects": {name: subject.key for name, subject in subjects.items()},
        "wiring": {key: wiring.to_json()[key] for key in ("links", "outputs", "step")},
        "versions": versions(),
    }

    def work(folder: Path) -> None:
        context.stage(f"what {', '.join(subject.what for subject in subjects.values())} give end to end")
        with Chain(wiring, {name: subject.exact() for name, subject in subjects.items()}) as chain:
            taken = islice(checked(events, wiring.spec), count)
            write_samples(folder / _SET, _with_outputs(chain, wiring, taken), about=_about(events))

    return context.cache.run("golden", parts, work)[0] / _SET


def _with_outputs(chain: Chain, wiring: Wiring, events: Iterable[Sample]) -> Iterator[dict[str, Array]]:
    names = [tensor.name for tensor in wiring.inputs]

    def run(samples: Sequence[Sample]) -> list[dict[str, Array]]:
        return chain.run(stacked(samples, names)).rows()

    for sample, told in in_order(events, names, most_rows(wiring.spec), run):
        kept = {name: array for name, array in sample.items() if not name.startswith(OUTPUT)}
        yield {**kept, **{f"{OUTPUT}{name}": array for name, array in told.items()}}
