"""One modality of a model: its inputs, their dynamic axes, and how an event's part of it is drawn.

An event is drawn whole, padded (where the modality has a mask) or absent: zeros, wholly masked, as a user's
data would hold where a picture, a sound or a text is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from torch import Tensor

from mmtrt.export.hf.facts import Vocabulary
from mmtrt.tensors import Array

__all__ = ["BATCH", "Fill", "Stream", "array_stream", "picture", "region_stream", "text_stream"]

BATCH = "batch"
_SHORTEST = 2
_USUAL_TEXT = 16
_USUAL_REGIONS = 36
_CELLS = (56, 28, 7, 1)

Rng = np.random.Generator
Sizes = Mapping[str, int]
Span = tuple[int, int, int]


class Fill(Enum):
    """How much of a modality an event has."""

    WHOLE = "whole"
    PADDED = "padded"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """`draw(rng, sizes, fill)` gives the modality's inputs for one event, without the batch axis.

    `axes` counts the batch axis, which is 0; `ranges` holds the sizes that are this modality's own.
    """

    name: str
    draw: Callable[[Rng, Sizes, Fill], dict[str, Array]] = field(repr=False)
    axes: Mapping[str, Mapping[int, str]]
    ranges: Mapping[str, Span] = field(default_factory=dict)
    adapt: Callable[[Any, dict[str, Tensor]], dict[str, Tensor]] | None = None
    """Brings the inputs to what `forward` takes, where that is more than the user should have to give."""


def text_stream(
    names: Collection[str],
    words: Vocabulary,
    *,
    name: str = "text",
    prefix: str = "",
    queries: Span | None = None,
    ends_stay: bool = False,
) -> Stream:
    """Token ids and what goes with them, `(T,)`, or `(Q, T)` where an event has several texts.

    `ends_stay` keeps the first and the last token where the text is absent, for models that can't do without.
    """
    shortest = len(words.lead) + _SHORTEST
    longest = max(words.longest + len(words.lead), shortest)
    usual = min(len(words.lead) + _USUAL_TEXT, longest)
    ranges: dict[str, Span] = {name: (shortest, usual, longest)}
    if queries:
        ranges["queries"] = queries
    shape: dict[int, str] = {0: BATCH, 1: "queries", 2: name} if queries else {0: BATCH, 1: name}

    def one(rng: Rng, length: int, fill: Fill) -> dict[str, Array]:
        kept = length if fill is Fill.WHOLE else int(rng.integers(shortest, max(length, shortest) + 1))
        if fill is Fill.ABSENT:
            kept = shortest
        mask = (np.arange(length) < kept).astype(np.int64)
        ids = _ids(rng, words, kept, length)
        if fill is Fill.ABSENT and not ends_stay:
            mask[len(words.lead) :] = 0
            ids[len(words.lead) :] = words.pad
        drawn: dict[str, Array] = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros(length, np.int64),
            "bbox": _boxes(rng, length) * mask[:, None],
        }
        return {f"{prefix}{key}": array for key, array in drawn.items() if f"{prefix}{key}" in names}

    def draw(rng: Rng, sizes: Sizes, fill: Fill) -> dict[str, Array]:
        if not queries:
            return one(rng, sizes[name], fill)
        rows = [one(rng, sizes[name], fill) for _ in range(sizes["queries"])]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

    return Stream(
        name=name,
        draw=draw,
        axes=dict.fromkeys(names, shape),
        ranges=ranges,
    )


def _ids(rng: Rng, words: Vocabulary, kept: int, length: int) -> Array:
    """Lead, first token, words, last token, padding: `(length,)` int64."""
    free = np.setdiff1d(np.arange(words.size), [*words.special, *words.lead])
    ids = np.full(length, words.pad, dtype=np.int64)
    ids[:kept] = rng.choice(free if free.size else np.arange(words.size), kept)
    if words.stop is not None:
        ids[2:kept:3] = words.stop
    start = len(words.lead)
    ids[:start] = words.lead
    if words.begin is not None:
        ids[start] = words.begin
    if words.end is not None:
        ids[kept - 1] = words.end
    return ids


def _boxes(rng: Rng, length: int) -> Array:
    """Corners of a token's box on a page of 1000 by 1000, `(length, 4)` int64."""
    first = rng.integers(0, 900, (length, 2))
    return np.concatenate([first, first + rng.integers(1, 100, (length, 2))], axis=1).astype(np.int64)


def picture(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Noise at several scales, `(..., H, W)` float32, as a picture that a processor normalised: mean 0, deviation 1."""
    *outer, height, width = shape
    total = np.zeros(shape, dtype=np.float32)
    for cell in _CELLS:
        coarse = rng.standard_normal((*outer, -(-height // cell), -(-width // cell)), dtype=np.float32)
        fine = coarse.repeat(cell, axis=-2).repeat(cell, axis=-1)[..., :height, :width]
        total += fine * np.float32(cell**0.25)
    total -= total.mean()
    return np.asarray(total / max(float(total.std()), 1e-6), dtype=np.float32)


def array_stream(
    name: str,
    shapes: Mapping[str, tuple[int | str, ...]],
    *,
    ranges: Mapping[str, Span] | None = None,
    masks: Collection[str] = (),
    kinds: Mapping[str, Any] | None = None,
) -> Stream:
    """Float inputs of given shapes, without the batch axis, and `masks` of ones that show what of them counts."""
    kinds = kinds or {}

    def draw(rng: Rng, sizes: Sizes, fill: Fill) -> dict[str, Array]:
        drawn: dict[str, Array] = {}
        for key, dims in shapes.items():
            shape = tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)
            if key in masks:
                drawn[key] = np.ones(shape, kinds.get(key, np.int64))
            elif fill is Fill.ABSENT:
                drawn[key] = np.zeros(shape, np.float32)
            else:
                drawn[key] = picture(rng, shape) if len(shape) > 1 else rng.standard_normal(shape, dtype=np.float32)
        if fill is Fill.PADDED and "pixel_mask" in drawn:
            _pad(rng, drawn)
        return drawn

    axes = {
        key: {0: BATCH, **{axis: dim for axis, dim in enumerate(dims, start=1) if isinstance(dim, str)}}
        for key, dims in shapes.items()
    }
    return Stream(name=name, draw=draw, axes=axes, ranges=dict(ranges or {}))


def _pad(rng: Rng, drawn: dict[str, Array]) -> None:
    """Leave a picture in the upper left, as a processor does with one that is smaller than others of its batch."""
    height, width = drawn["pixel_mask"].shape
    high, wide = (int(rng.integers((side + 1) // 2, side + 1)) for side in (height, width))
    for array in drawn.values():
        array[..., high:, :] = 0
        array[..., :, wide:] = 0


def region_stream(features: str, width: int, others: Collection[str]) -> Stream:
    """Features of a picture's regions, `(R, width)`, with their boxes, mask and types where the model takes them."""

    def draw(rng: Rng, sizes: Sizes, fill: Fill) -> dict[str, Array]:
        count = sizes["regions"]
        kept = count if fill is Fill.WHOLE else int(rng.integers(1, count + 1))
        mask = (np.arange(count) < (0 if fill is Fill.ABSENT else kept)).astype(np.int64)
        corner = rng.random((count, 2)) * 0.6
        drawn: dict[str, Array] = {
            features: (np.maximum(rng.standard_normal((count, width)), 0) * mask[:, None]).astype(np.float32),
            "visual_pos": np.concatenate([corner, corner + rng.random((count, 2)) * 0.4], axis=1).astype(np.float32),
            "visual_attention_mask": mask,
            "visual_token_type_ids": np.ones(count, np.int64),
        }
        return {key: array for key, array in drawn.items() if key == features or key in others}

    return Stream(
        name="image",
        draw=draw,
        axes={key: {0: BATCH, 1: "regions"} for key in (features, *others)},
        ranges={"regions": (1, _USUAL_REGIONS, 100)},
    )
