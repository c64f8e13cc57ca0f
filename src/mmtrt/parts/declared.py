"""What a factory declares of a model in several parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmtrt.samples import Sample

__all__ = ["Pipeline", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The part that is run again and again on the token that it chose before: a decoder with its cache.

    `token` is its input `(B, 1)`, the last token; `logits` its output `(B, V)` or `(B, 1, V)`, whose largest element
    is the next token. `cache` maps an input to the output that takes its place at the next step; `length` names the
    size of these inputs that grows by one each time. At the first step this size is 1 and the cache is zero: the first
    slot is empty, and the part has to hide it. `start` is the first token, `end` ends a phrase and `pad` follows it; a
    phrase has at most `steps` tokens, its end included.
    """

    part: str
    token: str
    logits: str
    cache: Mapping[str, str]
    start: int
    end: int
    steps: int
    pad: int = 0
    length: str = "past"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What a factory returns for a model in several parts.

    `parts` maps names, in the order in which the parts run, to what a factory of this part alone would return:
    `(module, inputs, dynamic_axes, extra)`, whose `extra` names its outputs. Inputs that a link feeds need no example.
    `links` are `"part.output -> part.input"`. An input that nothing feeds is the pipeline's own; parts that have it
    under one name share it. A size name means the same size in all parts. `outputs`, `"part.output"`, are those of the
    pipeline: the last part's where none are named, and beside them what a `step` makes, its logits and the tokens.
    `samples` yields events: the pipeline's own inputs without the batch axis.
    """

    parts: Mapping[str, tuple[Any, ...]]
    links: Sequence[str]
    outputs: Sequence[str] = ()
    step: Step | None = None
    samples: Callable[..., Iterable[Sample]] | None = field(default=None, repr=False)
