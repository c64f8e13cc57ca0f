"""Runs a pipeline, each part by a runner of its own, a step by greedy search. Fulfils the Runner contract itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmtrt.parts.greedy import generate
from mmtrt.parts.wiring import TOKENS, Port, Wiring
from mmtrt.runtimes import Runner
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Answer", "Chain"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a pipeline gave: its outputs by name; of a step the logits `(B, S, V)` and the tokens `(B, S)` among them.

    `counts` `(B, S)` is true up to the end of each row's phrase; None where there is no step.
    """

    outputs: dict[str, Array]
    counts: Array | None = None
    stepped: frozenset[str] = frozenset()
    """The outputs that have a step axis."""

    def rows(self) -> list[dict[str, Array]]:
        """Return the outputs of each row, without the batch axis; of a step those of its phrase, its end included."""
        count = len(next(iter(self.outputs.values())))
        return [{name: self._row(name, row) for name in self.outputs} for row in range(count)]

    def phrases(self) -> list[tuple[int, ...]]:
        """Return the tokens of each row, its end included; none where there is no step."""
        return [] if self.counts is None else [tuple(row[TOKENS].tolist()) for row in self.rows()]

    def _row(self, name: str, row: int) -> Array:
        array: Array = self.outputs[name][row]
        if self.counts is not None and name in self.stepped:
            array = array[self.counts[row]]
        return array


class Chain:
    """The parts one after another; entered and left together."""

    def __init__(self, wiring: Wiring, runners: Mapping[str, Runner]) -> None:
        self._wiring = wiring
        self._runners = dict(runners)
        self._stack = ExitStack()

    @property
    def runs(self) -> str:
        """What runs the parts, each named once."""
        return ", ".join(dict.fromkeys(runner.runs for runner in self._runners.values()))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The pipeline's own inputs."""
        return self._wiring.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The pipeline's own outputs, as the parts tell them; what a step makes comes last."""
        specs = {Port(part, t.name): t for part, spec in self._wiring.parts.items() for t in spec.outputs}
        found = {name: specs[port] for name, port in self._wiring.outputs.items()}
        told = [TensorSpec(name=name, dtype=tensor.dtype, shape=tensor.shape) for name, tensor in found.items()]
        if (step := self._wiring.step) is not None:
            logits = specs[Port(step.part, step.logits)]
            told.append(TensorSpec(name=step.logits, dtype=logits.dtype, shape=("batch", "steps", logits.shape[-1])))
            told.append(TensorSpec(name=TOKENS, dtype="int64", shape=("batch", "steps")))
        return tuple(told)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for runner in self._runners.values():
                stack.enter_context(runner)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once and return the outputs."""
        return self.run(feeds).outputs

    def run(self, feeds: Feeds, *, forced: Array | None = None) -> Answer:
        """Run all parts; a step until each row has ended, or along the `forced` tokens `(B, S)` of another run."""
        known: dict[Port, Array] = {}
        step = self._wiring.step
        for part, spec in self._wiring.parts.items():
            given = self._wiring.feeds_of(part, feeds, known)
            if step is not None and step.part == part:
                told = generate(step, spec, self._runners[part], given, forced=forced)
                made = {step.logits: told.logits, TOKENS: told.tokens}
                return Answer(outputs={**self._final(known), **made}, counts=told.counts, stepped=frozenset(made))
            known |= {Port(part, name): array for name, array in self._runners[part].infer(given).items()}
        return Answer(outputs=self._final(known))

    def _final(self, known: Mapping[Port, Array]) -> dict[str, Array]:
        return {name: known[port] for name, port in self._wiring.outputs.items()}
