"""What a model of the zoo learns and how it is scored: all that training, evaluation and its card need to know."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from mmtrt.zoo import TRAINED
from mmtrt.zoo.data.batches import Batch, MakeBatch
from mmtrt.zoo.training.loop import Schedule

__all__ = ["SEEING", "Lesson", "Model", "Phase", "find_lesson"]

Model = TypeVar("Model", bound=nn.Module)

SEEING = ""
"""In the place of a blinded modality: none is blinded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase(Generic[Model]):
    """What a part of the model learns alone before the model does; all runs of one seed share it."""

    name: str
    what: str
    """For the card: what learns, and what its score is."""
    part: Callable[[Model], nn.Module]
    """The part, over the model's own parameters, with what it needs to learn alone."""
    batch: MakeBatch
    loss: Callable[[Any, Batch], Tensor]
    score: Callable[[Any, int], float]
    """The part in eval mode and the number of validation events to what its weights are picked by."""
    schedule: Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson(Generic[Model]):
    """One trained model of the zoo; `python -m mmtrt.zoo.train NAME` follows it.

    Where a function takes `blind`, that is one of `modalities`, or SEEING. A blinded modality is what the model gets
    where it is missing: a zeroed image, a wholly masked text.
    """

    name: str
    what: str
    """One sentence for the card: what goes in, how it is fused, what comes out."""
    modalities: tuple[str, ...]
    make: Callable[[], Model]
    """Makes the untrained model, at the sizes of the checkpoint, in training mode, from torch's random state."""
    batch: MakeBatch
    """A function of a module (another process calls it): seed, step and size to numpy arrays."""
    loss: Callable[[Model, Batch, str], Tensor]
    """Model, batch and `blind` to the loss."""
    scores: Callable[[Model, str, int, str], dict[str, float]]
    """Model in eval mode, split ("validation" or "test"), number of events and `blind` to metrics by name.

    Metrics are shares of 1, which the card prints as percent; one whose name ends in a unit, "speed error [m/s]", is
    printed as it is. Names may say a part after a comma: "answer accuracy, colour".
    """
    metric: str
    """The score that validation picks the weights by; higher is better."""
    schedule: Schedule
    inputs: Callable[[], dict[str, Tensor]]
    """One event of the largest size, `{input: (1, ...)}`: what multiply-accumulates are counted on."""
    data: Callable[[], dict[str, Any]]
    """What the card says of the data: names to text, numbers, lists."""
    data_modules: tuple[ModuleType, ...]
    """The modules that draw the data: others mean other data, and the card says so."""
    chance: Callable[[], dict[str, float]]
    """What is right without looking, on the test split: `{"commonest answer": 0.15}`."""
    start: Callable[[Model], str] | None = None
    """Puts weights of another model of the zoo in before training; returns what the card says of it.

    It may freeze what it put in (`requires_grad_(False)`): the optimizer leaves that alone.
    """
    before: tuple[Phase[Model], ...] = ()
    """What parts of the model learn first, in this order."""
    blind_steps: Mapping[str, int] = field(default_factory=dict)
    """Modality -> steps of a training without it, whose score the card tells; those left out are not trained."""
    validation_events: int = 1000
    test_events: int = 4000

    @property
    def data_digest(self) -> str:
        """SHA-256 of the source of `data_modules`, shortened: other digests mean other data."""
        total = hashlib.sha256()
        for module in self.data_modules:
            total.update(Path(str(module.__file__)).read_bytes())
        return total.hexdigest()[:12]


def find_lesson(name: str) -> Lesson[Any]:
    """Import the lesson of a trained model of the zoo; KeyError where TRAINED has none of this name."""
    module, _, attribute = TRAINED[name].partition(":")
    lesson: Lesson[Any] = getattr(import_module(module), attribute)
    return lesson
