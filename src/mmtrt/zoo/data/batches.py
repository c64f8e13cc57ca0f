"""Training batches, made while training: each follows from a seed and a step alone. Needs numpy only.

No scene is seen twice, so there is nothing to overfit, and a resumed run sees what an unbroken one would.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data import words
from mmtrt.zoo.data.events import Asked, event_rng
from mmtrt.zoo.data.questions import KINDS, PRESUPPOSING, Question, ask, ask_unmatched
from mmtrt.zoo.data.scenes import IMAGE_SIZE, Scene, render, sample_scene

UNMATCHED_SHARE: Final = 0.2
GRID: Final = 8
_HARD: Final = {"count": 2, "comparison": 3, "relation": 4}
_DRAWN: Final = tuple(kind for kind in KINDS for _ in range(_HARD.get(kind, 1)))
_EASY_STEPS: Final = 1000
"""So long all kinds are drawn evenly: what a word means in the picture is learned from the easy ones."""

_TRIES: Final = 20
_AHEAD: Final = 6

Batch = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSize:
    """Scenes per step, and questions asked of each: a picture is encoded once for all of them."""

    scenes: int = 32
    questions: int = 8


MakeBatch = Callable[[int, int, BatchSize], Batch]
"""Seed, step and size to a batch; a function of a module, as another process calls it."""


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step: N scenes, and N * Q questions, those of a scene side by side.

    `image` (N, 3, 64, 64) uint8; `ids` and `mask` (N * Q, 16), `answer` (N * Q,), `match` (N * Q,) and
    `generate` (N * Q, 5), all int64.
    """
    rng = event_rng("train", seed, step)
    kinds = KINDS if step < _EASY_STEPS else _DRAWN
    return asked_batch(rng, size, lambda scene: draw_question(scene, rng, kinds), collate)


def asked_batch(
    rng: np.random.Generator,
    size: BatchSize,
    draw: Callable[[Scene], Asked],
    collate_asked: Callable[[list[Asked]], Batch],
) -> Batch:
    """N scenes, Q times asked each, those of a scene side by side: `image` (N, 3, 64, 64) uint8, and what is asked."""
    scenes = [sample_scene(rng) for _ in range(size.scenes)]
    asked = [draw(scene) for scene in scenes for _ in range(size.questions)]
    return {"image": np.stack([render(s) for s in scenes])} | collate_asked(asked)


def draw_asked(rng: np.random.Generator, kinds: Sequence[str], asked: Callable[[str, int], Asked | None]) -> Asked:
    """Draw kinds and targets until one can be asked."""
    while True:
        kind = kinds[int(rng.integers(len(kinds)))]
        for _ in range(_TRIES):
            found = asked(kind, int(rng.integers(2**31)))
            if found is not None:
                return found


def draw_question(scene: Scene, rng: np.random.Generator, kinds: Sequence[str] = _DRAWN) -> Question:
    """Draw a question of one of the kinds on a scene: an unmatched one in UNMATCHED_SHARE of all cases."""
    while True:
        among, asker = (PRESUPPOSING, ask_unmatched) if rng.random() < UNMATCHED_SHARE else (kinds, ask)
        kind = among[int(rng.integers(len(among)))]
        for _ in range(_TRIES):
            question = asker(scene, kind, int(rng.integers(2**31)), rng)
            if question is not None:
                return question


def collate(questions: list[Question]) -> Batch:
    """Questions as arrays, texts padded to TEXT_MAX; keys and shapes as in `training_batch`."""
    ids = np.full((len(questions), words.TEXT_MAX), words.PAD, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, question in enumerate(questions):
        encoded = words.encode_question(question.words)
        ids[row, : len(encoded)] = encoded
        mask[row, : len(encoded)] = 1
    answers, matches, phrases = zip(*(words.labels(q) for q in questions), strict=True)
    return {
        "ids": ids,
        "mask": mask,
        "answer": np.array(answers, dtype=np.int64),
        "match": np.array(matches, dtype=np.int64),
        "generate": np.stack(phrases),
    }


def picture_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make a batch without questions: `image` (N, 3, 64, 64) uint8, `cells` (N, 64, 3) int64."""
    rng = event_rng("pictures", seed, step)
    scenes = [sample_scene(rng) for _ in range(size.scenes)]
    return {
        "image": np.stack([render(s) for s in scenes]),
        "cells": np.stack([cell_labels(s) for s in scenes]),
    }


def cell_labels(scene: Scene) -> NDArray[np.int64]:
    """Size, colour and shape of the thing whose centre is in each cell of an 8x8 grid, `(64, 3)`; -1 = none."""
    cells = np.full((GRID * GRID, 3), words.IGNORED, dtype=np.int64)
    for thing in scene.things:
        row, column = (int(v * GRID // IMAGE_SIZE) for v in (thing.y, thing.x))
        cells[row * GRID + column] = thing.attributes
    return cells


def batches_ahead(make: MakeBatch, seed: int, first: int, last: int, size: BatchSize) -> Generator[Batch, None, None]:
    """Yield the batches of steps `first` to `last - 1`, in order, made ahead in another process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_follow_parent) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in range(first, last):
                waiting.append(pool.submit(make, seed, step, size))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _follow_parent() -> None:
    """In the worker: yield to the training, leave Ctrl-C to the parent, and end when the parent was killed."""
    if hasattr(os, "nice"):
        os.nice(10)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
