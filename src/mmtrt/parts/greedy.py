"""A step is run until each phrase has ended: greedy search with a cache, whatever runs the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmtrt.errors import ModelError
from mmtrt.parts.declared import Step
from mmtrt.runtimes import Runner
from mmtrt.tensors import Array, Feeds, ModelSpec, resolve_shape

__all__ = ["Phrases", "StepWatch", "generate"]

StepWatch = Callable[[Feeds, Array], None]
"""Is told the feeds of each step, and which rows `(B,)` have not ended yet."""


def _unseen(feeds: Feeds, going: Array) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Phrases:
    """`tokens` `(B, S)`, padded behind each row's end, their `logits` `(B, S, V)`, and which `counts` `(B, S)`."""

    tokens: Array
    logits: Array
    counts: Array


def generate(
    step: Step,
    spec: ModelSpec,
    runner: Runner,
    given: Feeds,
    *,
    forced: Array | None = None,
    watch: StepWatch = _unseen,
) -> Phrases:
    """Choose the likeliest token of each row until all have ended, or take the `forced` tokens `(B, S)` of another run.

    `given` are the inputs that no step changes, `spec` is the part's. ModelError where there are none.
    """
    if not given:
        raise ModelError(f"nothing feeds the step {step.part!r}", fix="Link what it decodes to one of its inputs.")
    rows = len(next(iter(given.values())))
    cache = first_cache(step, spec, given)
    token = np.full((rows, 1), step.start, dtype=next(t.dtype for t in spec.inputs if t.name == step.token))
    going = np.ones(rows, dtype=bool)
    tokens: list[Array] = []
    scores: list[Array] = []
    counts: list[Array] = []
    for index in range(step.steps if forced is None else forced.shape[1]):
        feeds = {**given, step.token: token, **cache}
        watch(feeds, going)
        told = runner.infer(feeds)
        logits = told[step.logits].reshape(rows, -1)
        chosen = logits.argmax(axis=-1) if forced is None else forced[:, index]
        tokens.append(np.where(going, chosen, step.pad))
        scores.append(logits)
        counts.append(going)
        going = going & (tokens[-1] != step.end)
        if not going.any():
            break
        token = tokens[-1][:, None].astype(token.dtype)
        cache = {name: told[successor] for name, successor in step.cache.items()}
    return Phrases(tokens=np.stack(tokens, axis=1), logits=np.stack(scores, axis=1), counts=np.stack(counts, axis=1))


def first_cache(step: Step, spec: ModelSpec, given: Mapping[str, Array]) -> dict[str, Array]:
    """Return a cache of one empty slot, zeros; its other sizes are those of what the step is fed."""
    rows = len(next(iter(given.values())))
    sizes: dict[str, int] = {}
    for tensor in spec.inputs:
        shape = given[tensor.name].shape if tensor.name in given else ()
        sizes.update({dim: size for dim, size in zip(tensor.shape, shape, strict=False) if isinstance(dim, str)})
    return {
        tensor.name: np.zeros(
            resolve_shape(tensor.shape, {str(tensor.shape[0]): rows, **sizes, step.length: 1}), dtype=tensor.dtype
        )
        for tensor in spec.inputs
        if tensor.name in step.cache
    }
