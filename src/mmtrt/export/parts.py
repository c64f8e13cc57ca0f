"""A source in several parts: each part becomes a source of its own, and what feeds what is checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmtrt.artifacts import key_of
from mmtrt.errors import MmtrtError, ModelError, UsageError
from mmtrt.export.sources import Source, made_by, source_from, source_name
from mmtrt.parts.declared import Pipeline, Step
from mmtrt.parts.wiring import TOKENS, Port, Wiring, nearest, read_links
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.samples import Sample
from mmtrt.tensors import Array, ModelSpec, TensorSpec

__all__ = ["PipelineSource", "open_source", "pipeline_from"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSource:
    """Sources by the name of their part, in the order in which they run, and their wiring.

    `examples` are the pipeline's own inputs, `samples` yields its events where the factory can.
    """

    reference: str
    name: str
    parts: Mapping[str, Source]
    wiring: Wiring
    examples: Mapping[str, Array] = field(repr=False)
    samples: Callable[..., Iterable[Sample]] | None = field(default=None, repr=False)

    @property
    def digest(self) -> str:
        """Digest of all parts' weights and code, and of what feeds what."""
        wiring = self.wiring.to_json()
        return key_of(
            {
                "parts": {name: part.digest for name, part in self.parts.items()},
                **{key: wiring[key] for key in ("links", "outputs", "step")},
            }
        )


def open_source(reference: str, checkpoint: Path | None = None) -> Source | PipelineSource:
    """Load a source of one part or of several, a checkpoint into one; InputError or UsageError at their faults."""
    made, factory = made_by(reference, checkpoint)
    if not isinstance(made, Pipeline):
        return source_from(reference, source_name(reference), made, factory, checkpoint)
    if checkpoint is not None:
        raise UsageError(
            f"{checkpoint} is for a model in one part; {reference} has several ({', '.join(made.parts)})",
            fix="Load the weights in the factory.",
        )
    return pipeline_from(reference, source_name(reference), made, factory)


def pipeline_from(reference: str, name: str, made: Pipeline, factory: Callable[..., Any]) -> PipelineSource:
    """Return the source that a `Pipeline` describes; ModelError names the part, the link or the tensor at fault."""
    names = list(made.parts)
    if not names or any("." in part or not part for part in names):
        raise ModelError(f"{reference}: the parts are {names}", fix="Give each a name without dots.")
    try:
        links = read_links(made.links, names)
        parts: dict[str, Source] = {}
        specs: dict[str, ModelSpec] = {}
        known: dict[Port, Array] = {}
        for part, given in made.parts.items():
            fed = {target.tensor: source for target, source in links.items() if target.part == part}
            source = _part(reference, name, part, _fed(part, given, fed, known, made.step), factory)
            parts[part] = source
            specs[part], told = _run(source)
            known |= {Port(part, tensor): array for tensor, array in told.items()}
        parts = _same_ranges(parts, made.step)
        outputs = _outputs(made, specs)
        wiring = Wiring(parts=specs, links=links, outputs=outputs, step=made.step)
        # Once more, with the ranges that hold in all parts.
        wiring = wiring.with_specs({part: replace(specs[part], ranges=parts[part].ranges) for part in specs})
    except ModelError as error:
        if error.message.startswith(reference):
            raise
        raise ModelError(f"{reference}: {error.message}", fix=error.fix) from error
    if made.samples is not None and not callable(made.samples):
        raise ModelError(f"{reference}: samples is a {type(made.samples).__name__}", fix="Give a function.")
    own = {tensor.name for tensor in wiring.inputs}
    examples = {n: array for source in parts.values() for n, array in source.examples.items() if n in own}
    return PipelineSource(
        reference=reference, name=name, parts=parts, wiring=wiring, examples=examples, samples=made.samples
    )


def _fed(part: str, given: Any, fed: Mapping[str, Port], known: Mapping[Port, Array], step: Step | None) -> Any:
    """Return what describes a part with an example of each linked input: what the link gives, where there is none.

    Of what a part is fed from within no event can lack anything: unless told, its modalities are its other inputs.
    """
    if not isinstance(given, tuple) or len(given) < 2 or not isinstance(given[1], Mapping):
        return given  # Told of below, in the words for a source of one part.
    for name, source in fed.items():
        if source not in known:
            outputs = [port.tensor for port in known if port.part == source.part]
            raise ModelError(
                f"{part}.{name} is linked to {source}, which is no output",
                fix=nearest(source.tensor, outputs, f"The outputs of {source.part!r} are"),
            )
        kind = str(getattr(given[1].get(name, known[source]), "dtype", "")).removeprefix("torch.")
        if kind != str(known[source].dtype):
            raise ModelError(
                f"{source} is {known[source].dtype}, and the example of {part}.{name} is {kind or 'no array'}",
                fix="Cast it inside one of the two parts, or leave the example out.",
            )
    examples = {**{name: known[source] for name, source in fed.items()}, **given[1]}
    if len(given) == 4 and (not isinstance(given[3], Mapping) or "modalities" in given[3]):
        return (given[0], examples, *given[2:])
    within = {*fed, *((step.token, *step.cache) if step is not None and step.part == part else ())}
    modalities = {name: [name] for name in examples if name not in within}
    axes, extra = (*given[2:], None, None)[:2]
    return (given[0], examples, axes, {**(extra or {}), "modalities": modalities}, *given[4:])


def _part(reference: str, name: str, part: str, given: Any, factory: Callable[..., Any]) -> Source:
    source = source_from(f"{reference}[{part}]", f"{name}.{part}", given, factory)
    if source.outputs is None:
        raise ModelError(
            f"{source.reference} names no outputs", fix='Give {"outputs": [...]} in its fourth item: links need them.'
        )
    return source


def _run(source: Source) -> tuple[ModelSpec, dict[str, Array]]:
    """Run a part on its examples: what its outputs are is not told by anything else before the export."""
    try:
        told = EagerRunner(source.module, source.inputs, source.outputs).infer(source.examples)
    except (MmtrtError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(
            f"{source.reference} does not run on its examples: {type(error).__name__}: {error}",
            fix="Check the examples, the names of the outputs, and what is linked to its inputs.",
        ) from error
    outputs = tuple(TensorSpec(name=n, dtype=str(array.dtype), shape=array.shape) for n, array in told.items())
    spec = ModelSpec(inputs=source.inputs, outputs=outputs, modalities=source.modalities, ranges=source.ranges)
    return spec, told


def _outputs(made: Pipeline, specs: Mapping[str, ModelSpec]) -> dict[str, Port]:
    """Return the pipeline's outputs by their tensors' names: as told, else all of the last part."""
    last = list(specs)[-1]
    ports = [Port.read(text, specs) for text in made.outputs]
    if not ports and made.step is None:
        ports = [Port(last, tensor.name) for tensor in specs[last].outputs]
    named = {port.tensor: port for port in ports}
    if len(named) < len(ports) or (made.step is not None and {made.step.logits, TOKENS} & named.keys()):
        raise ModelError(
            f"two outputs of the pipeline have one name: {', '.join(map(str, ports))}",
            fix=f"Rename one in its part; a step adds its logits and {TOKENS!r} itself.",
        )
    return named


def _same_ranges(parts: Mapping[str, Source], step: Step | None) -> dict[str, Source]:
    """Give each part the ranges that any part tells: a size name means the same size everywhere."""
    told: dict[str, tuple[tuple[int, int, int], str]] = {}
    if step is not None:
        told[step.length] = ((1, max(1, step.steps // 2), step.steps), step.part)
    for part, source in parts.items():
        for size, span in source.ranges.items():
            before = told.setdefault(size, (span, part))
            if before[0] != span:
                raise ModelError(
                    f"the size {size!r} is {list(before[0])} in {before[1]!r} and {list(span)} in {part!r}",
                    fix="A size name means the same size in all parts: give it one range, or another name.",
                )
    found = {}
    for part, source in parts.items():
        sizes = {size for named in source.axes.values() for size in named.values()}
        found[part] = replace(source, ranges={size: span for size, (span, _) in told.items() if size in sizes})
    return found
