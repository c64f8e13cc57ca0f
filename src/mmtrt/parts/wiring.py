"""Which tensor feeds which: a pipeline whose parts are known, checked as a whole; written to and read from JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mmtrt.errors import ModelError
from mmtrt.parts.declared import Step
from mmtrt.tensors import Array, Feeds, ModelSpec, TensorSpec

__all__ = ["TOKENS", "Port", "Wiring", "read_links"]

TOKENS = "tokens"
"""The output that a step adds: the phrase, `(B, steps)`, padded behind its end."""


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """A tensor of a part, `part.tensor`."""

    part: str
    tensor: str

    def __str__(self) -> str:
        return f"{self.part}.{self.tensor}"

    @classmethod
    def read(cls, text: str, parts: Iterable[str]) -> Port:
        """Read `part.tensor`; a tensor's name may hold dots itself. ModelError where there is no such part."""
        part, dot, tensor = text.strip().partition(".")
        names = list(parts)
        if not dot or not tensor:
            raise ModelError(f"{text.strip()!r} names no tensor of a part", fix="Write part.tensor.")
        if part not in names:
            raise ModelError(f"{text.strip()!r}: there is no part {part!r}", fix=nearest(part, names, "The parts are"))
        return cls(part, tensor)


def nearest(name: str, known: Iterable[str], listed: str) -> str:
    """Return the mend for a name that is none: the nearest known one, else all of them."""
    names = list(known)
    near = get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"{listed} {', '.join(names)}."


def read_links(texts: Sequence[str], parts: Sequence[str]) -> dict[Port, Port]:
    """Read `part.output -> part.input`; return the output by the input that it feeds.

    ModelError for a part that there is none, an input that is fed twice, and a link that leads backwards: parts run in
    their order, so that no link can close a circle.
    """
    links: dict[Port, Port] = {}
    for text in texts:
        given, arrow, taken = text.partition("->")
        if not arrow:
            raise ModelError(f"{text!r} is no link", fix="Write part.output -> part.input.")
        source, target = Port.read(given, parts), Port.read(taken, parts)
        if target in links:
            raise ModelError(f"{target} is fed twice: by {links[target]} and by {source}", fix="Leave one link out.")
        if parts.index(source.part) >= parts.index(target.part):
            raise ModelError(
                f"the link {source} -> {target} leads backwards: the parts run as {', '.join(parts)}",
                fix="List the parts in the order in which they feed one another; a step feeds itself by its cache.",
            )
        links[target] = source
    return links


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """The parts in the order in which they run, what feeds each linked input, and the pipeline's own outputs."""

    parts: Mapping[str, ModelSpec]
    links: Mapping[Port, Port]
    outputs: Mapping[str, Port]
    step: Step | None = None

    def __post_init__(self) -> None:
        for target, source in self.links.items():
            _fits(source, self._output(source), target, self._input(target))
        for port in self.outputs.values():
            self._output(port)
        if self.step is not None:
            self._check_step(self.step)
        self._all_used()
        _ = self.inputs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The pipeline's own inputs: those that no link and no step feeds; ModelError where two parts differ on one."""
        found: dict[str, tuple[str, TensorSpec]] = {}
        for part, spec in self.parts.items():
            for tensor in spec.inputs:
                if Port(part, tensor.name) in self.links or tensor.name in self.own_of_step(part):
                    continue
                before = found.setdefault(tensor.name, (part, tensor))
                if before[1] != tensor:
                    raise ModelError(
                        f"{before[0]!r} takes {before[1]}, {part!r} takes {tensor}",
                        fix="An input that parts share has one type and one shape; else give it two names.",
                    )
        return tuple(tensor for _, tensor in found.values())

    @property
    def ranges(self) -> dict[str, tuple[int, int, int]]:
        """The ranges of all sizes that the parts name."""
        return {name: span for spec in self.parts.values() for name, span in spec.ranges.items()}

    @property
    def spec(self) -> ModelSpec:
        """The pipeline seen as one model, for the samples that it takes."""
        limits = {name: span for spec in self.parts.values() for name, span in spec.limits.items()}
        own = {tensor.name for tensor in self.inputs}
        return ModelSpec(
            inputs=self.inputs, outputs=(), ranges=self.ranges, limits={k: v for k, v in limits.items() if k in own}
        )

    def own_of_step(self, part: str) -> set[str]:
        """Return the inputs of a part that its own last step feeds."""
        step = self.step
        return {step.token, *step.cache} if step is not None and step.part == part else set()

    def feeds_of(self, part: str, feeds: Feeds, known: Mapping[Port, Array]) -> dict[str, Array]:
        """Return what a part is fed from outside and by links; what its own last step gives it is not among it."""
        own = self.own_of_step(part)
        given: dict[str, Array] = {}
        for tensor in self.parts[part].inputs:
            source = self.links.get(Port(part, tensor.name))
            if tensor.name not in own:
                given[tensor.name] = feeds[tensor.name] if source is None else known[source]
        return given

    def with_specs(self, parts: Mapping[str, ModelSpec]) -> Wiring:
        """Return the same wiring of the same parts, as they were exported."""
        return dataclasses.replace(self, parts=parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "parts": {name: spec.to_json() for name, spec in self.parts.items()},
            "links": [{"from": str(source), "to": str(target)} for target, source in self.links.items()],
            "inputs": [tensor.name for tensor in self.inputs],
            "outputs": {name: str(port) for name, port in self.outputs.items()},
            "step": None if self.step is None else {**dataclasses.asdict(self.step), "cache": dict(self.step.cache)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Wiring:
        """Read what `to_json` wrote."""
        names = list(data["parts"])
        return cls(
            parts={name: ModelSpec.from_json(spec) for name, spec in data["parts"].items()},
            links={Port.read(row["to"], names): Port.read(row["from"], names) for row in data["links"]},
            outputs={name: Port.read(text, names) for name, text in data["outputs"].items()},
            step=None if data["step"] is None else Step(**data["step"]),
        )

    def _input(self, port: Port) -> TensorSpec:
        return _tensor(port, self.parts[port.part].inputs, "input")

    def _output(self, port: Port) -> TensorSpec:
        return _tensor(port, self.parts[port.part].outputs, "output")

    def _check_step(self, step: Step) -> None:
        names = list(self.parts)
        if step.part not in names:
            raise ModelError(f"there is no part {step.part!r} to step", fix=nearest(step.part, names, "The parts are"))
        if step.part != names[-1]:
            raise ModelError(
                f"the step {step.part!r} is not the last part", fix="What follows a phrase is a pipeline of its own."
            )
        token = self._input(Port(step.part, step.token))
        if len(token.shape) != 2 or not token.dtype.startswith("int"):
            raise ModelError(
                f"the token of {step.part!r} is {token}", fix="It is an integer input of shape (batch, 1)."
            )
        self._output(Port(step.part, step.logits))
        if not step.steps >= 1:
            raise ModelError(
                f"the step {step.part!r} is run {step.steps} times", fix="Give the most tokens of a phrase."
            )
        for name, successor in step.cache.items():
            taken, given = self._input(Port(step.part, name)), self._output(Port(step.part, successor))
            if step.length not in taken.shape:
                raise ModelError(
                    f"the cache {taken} of {step.part!r} has no size {step.length!r} that grows",
                    fix=f"Name one of its axes {step.length!r}, or say in the step what its name is.",
                )
            if taken.dtype != given.dtype or len(taken.shape) != len(given.shape):
                raise ModelError(
                    f"{given} can't take the place of {taken} at the next step of {step.part!r}",
                    fix="An output of the cache is its input with one slot more.",
                )

    def _all_used(self) -> None:
        """Raise ModelError at an output that feeds nothing: an engine would compute and copy it for nobody."""
        used = {*self.links.values(), *self.outputs.values()}
        if self.step is not None:
            used |= {Port(self.step.part, name) for name in (self.step.logits, *self.step.cache.values())}
        for port in self._outputs():
            if port not in used:
                raise ModelError(
                    f"the output {port} feeds nothing",
                    fix="Link it to an input, name it among the pipeline's outputs, or don't return it.",
                )

    def _outputs(self) -> Iterator[Port]:
        for part, spec in self.parts.items():
            for tensor in spec.outputs:
                yield Port(part, tensor.name)


def _tensor(port: Port, tensors: Sequence[TensorSpec], what: str) -> TensorSpec:
    for tensor in tensors:
        if tensor.name == port.tensor:
            return tensor
    names = [tensor.name for tensor in tensors]
    raise ModelError(
        f"the part {port.part!r} has no {what} {port.tensor!r}", fix=nearest(port.tensor, names, f"Its {what}s are")
    )


def _fits(source: Port, given: TensorSpec, target: Port, taken: TensorSpec) -> None:
    """Raise ModelError where an output can't be this input; a size by name fits any."""
    if given.dtype != taken.dtype:
        raise ModelError(
            f"{source} is {given.dtype}, and {target} takes {taken.dtype}", fix="Cast it inside one of the two parts."
        )
    same_rank = len(given.shape) == len(taken.shape)
    pairs = zip(given.shape, taken.shape, strict=False)
    if not same_rank or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        raise ModelError(
            f"{source} has the shape ({', '.join(map(str, given.shape))}), and {target} takes "
            f"({', '.join(map(str, taken.shape))})",
            fix="Reshape it inside one of the two parts.",
        )
