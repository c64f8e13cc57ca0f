"""How right a model is on the test split: with all modalities, with each blinded, and without looking at all."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from mmtrt.zoo.training.lesson import SEEING, Lesson

Model = TypeVar("Model", bound=nn.Module)


def evaluate(lesson: Lesson[Model], model: Model, blind: str = SEEING) -> dict[str, Any]:
    """Score a model in eval mode: `test`, `test_blinded` by modality, `chance`; each has scores by name.

    A model that was trained blind is scored as it was trained, and not blinded further.
    """
    count = lesson.test_events
    blinded = () if blind else lesson.modalities
    return {
        "test_events": count,
        "test": lesson.scores(model, "test", count, blind),
        "test_blinded": {one: lesson.scores(model, "test", count, one) for one in blinded},
        "chance": lesson.chance(),
    }
