"""A source in several parts is exported part by part, each with samples of what the parts before it give it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmtrt.artifacts import key_of
from mmtrt.errors import ModelError
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.parts import PipelineSource
from mmtrt.parts.manifest import Manifest, write_manifest
from mmtrt.parts.wiring import Wiring, nearest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, export_stage, export_view, place_samples, publish_export
from mmtrt.pipeline.parts_flow import Flow, events_of, golden_events
from mmtrt.pipeline.sides import Subject
from mmtrt.pipeline.sources import module_subject
from mmtrt.samples import Sample, SampleSet, open_set

__all__ = ["GOLDEN_EVENTS", "PartsExport", "export_parts", "module_subjects", "parts_view", "publish_parts"]

GOLDEN_EVENTS = 32
Ranges = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsExport:
    """Each part's export, their wiring as exported, and the events: all of them, and some with PyTorch's outputs."""

    name: str
    source: PipelineSource
    parts: Mapping[str, ExportResult]
    wiring: Wiring
    events: SampleSet
    golden: Path
    manifest: Path | None = None

    @property
    def cached(self) -> bool:
        """Nothing had to be exported."""
        return all(part.cached for part in self.parts.values())

    def described(self) -> Manifest:
        """Return what the manifest of the exported files says."""
        return Manifest(
            name=self.name,
            source=self.source.reference,
            digest=self.source.digest,
            wiring=self.wiring,
            files={part: {"fp32": {"onnx": result.onnx.name}} for part, result in self.parts.items()},
        )

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.export-parts/1`."""
        return {
            "schema": "mmtrt.export-parts/1",
            "artifacts": {"manifest": str(self.manifest), "golden": str(self.golden)},
            "parts": {part: result.to_json() for part, result in self.parts.items()},
            "links": self.wiring.to_json()["links"],
            "step": self.wiring.to_json()["step"],
            "cached": self.cached,
        }


def module_subjects(source: PipelineSource) -> dict[str, Subject]:
    """Return the PyTorch modules as what stands for the parts."""
    return {name: module_subject(part) for name, part in source.parts.items()}


def export_parts(
    context: Context,
    source: PipelineSource,
    *,
    opset: int,
    ranges: Ranges | None = None,
    budgets: Mapping[str, Mapping[str, float]] | None = None,
    events: SampleSet | None = None,
) -> PartsExport:
    """Export each part; `budgets` are the parts' own, `ranges` hold in every part that has a size of this name.

    ModelError where a range names no size of any part.
    """
    told = _known(source, ranges or {})
    given = events or events_of(source, None, None)
    flow = Flow(context, source.wiring, given)
    flow.subjects |= module_subjects(source)
    parts: dict[str, ExportResult] = {}
    for name, part in source.parts.items():
        options = ExportOptions(opset=opset, ranges=_of_part(told, part.axes), budget=(budgets or {}).get(name, {}))
        parts[name] = export_stage(context, _sampled(part, flow.feeds(name)), options)
    wiring = source.wiring.with_specs({name: result.spec for name, result in parts.items()})
    _warn_of_ranges(context, wiring)
    golden = golden_events(context, source.wiring, flow.subjects, given, GOLDEN_EVENTS)
    return PartsExport(name=source.name, source=source, parts=parts, wiring=wiring, events=given, golden=golden)


def _sampled(part: Any, folder: Path) -> Any:
    """Return a part whose samples are those of a folder: what it exports depends on them too."""
    samples = open_set(str(folder))
    return replace(part, samples=_Fed(samples), digest=key_of({"module": part.digest, "samples": samples.key}))


class _Fed:
    """A part's samples as a source offers them."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples
        self.on_data = samples.on_data

    def __call__(self) -> Iterator[Sample]:
        return iter(self._samples)


def _known(source: PipelineSource, ranges: Ranges) -> Ranges:
    sizes = {size for part in source.parts.values() for named in part.axes.values() for size in named.values()}
    for name in ranges:
        if name not in sizes:
            raise ModelError(
                f"a range is given for {name!r}, which names no dynamic axis of any part",
                fix=nearest(name, sorted(sizes), "The dynamic axes are"),
            )
    return ranges


def _of_part(ranges: Ranges, axes: Mapping[str, Mapping[int, str]]) -> dict[str, tuple[int, int, int]]:
    sizes = {size for named in axes.values() for size in named.values()}
    return {name: span for name, span in ranges.items() if name in sizes}


def _warn_of_ranges(context: Context, wiring: Wiring) -> None:
    """Say where two parts came out with two ranges of one size: engines take what both take, no more."""
    seen: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for part, spec in wiring.parts.items():
        for size, span in spec.ranges.items():
            before = seen.setdefault(size, (part, span))
            if before[1] != span:
                context.note(
                    f"{size!r} ranges over {list(before[1])} in {before[0]!r} and over {list(span)} in {part!r}: "
                    "give it a range that both take"
                )


def publish_parts(result: PartsExport, folder: Path, name: str) -> PartsExport:
    """Put the files of all parts, the golden events and the manifest where the user wants them."""
    published = replace(
        result,
        name=name,
        parts={part: publish_export(one, folder, f"{name}.{part}") for part, one in result.parts.items()},
        golden=place_samples(result.golden, folder / f"{name}.golden"),
    )
    return replace(published, manifest=write_manifest(published.described(), folder))


def parts_view(result: PartsExport) -> dict[str, str]:
    """Return names and values for people."""
    rows = {
        "pipeline": str(result.manifest),
        "takes": "; ".join(map(str, result.wiring.inputs)),
        "links": "; ".join(f"{source} -> {target}" for target, source in result.wiring.links.items()),
    }
    step = result.wiring.step
    if step is not None:
        rows["step"] = f"{step.part}, at most {step.steps} tokens, cache {', '.join(step.cache)}"
    for part, one in result.parts.items():
        rows |= {f"{part}: {name}": text for name, text in export_view(one).items()}
    return rows
