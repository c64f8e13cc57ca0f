"""The training loop that the zoo's models share: resumable at any moment, killed or stopped."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any, Generic, TypeVar

import torch
from rich import progress
from torch import Tensor, nn
from torch.optim import Optimizer

from mmtrt.errors import MeasurementError, ModelError
from mmtrt.zoo.data.batches import Batch, BatchSize, MakeBatch, batches_ahead

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[Model]):
    """What is learned: batches, the loss on one, and the score on validation data, higher being better."""

    make: MakeBatch
    loss: Callable[[Model, Batch], Tensor]
    validate: Callable[[Model], float]
    data: str
    """Digest of what draws the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to learn: AdamW, linear warm-up, then a cosine down to zero."""

    steps: int
    seed: int = 0
    peak: float = 1.5e-3
    warmup: int = 200
    weight_decay: float = 0.05
    clip: float = 1.0
    size: BatchSize = field(default_factory=BatchSize)
    save_every_s: float = 60.0
    validate_every: int = 400
    bfloat16: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(slots=True, kw_only=True)
class Progressed:
    """What has been reached: steps done, seconds spent over all runs, and the best weights on validation."""

    step: int = 0
    seconds: float = 0.0
    best: float = -1.0
    best_step: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    """From which step on which length and which data held: several where they changed on the way."""

    def follow(self, steps: int, data: str) -> None:
        """Note the length of the schedule, and the digest of the data, from here on."""
        now = {"steps": steps, "data": data}
        if not self.history or {k: self.history[-1][k] for k in now} != now:
            self.history.append({"from": self.step} | now)


def fit(model: Model, task: Task[Model], schedule: Schedule, state_file: Path) -> Progressed:
    """Train to the end of the schedule, going on from `state_file` if it is there; leave the best weights in.

    Ctrl-C ends it after the step at hand: the state is saved, then KeyboardInterrupt is raised.
    MeasurementError where the loss is not finite.
    """
    optimizer = make_optimizer(model, schedule)
    done = restore(model, optimizer, state_file)
    done.follow(schedule.steps, task.data)
    clock = _Clock(done.seconds, schedule.save_every_s)
    batches = batches_ahead(task.make, schedule.seed, done.step, schedule.steps, schedule.size)
    with _Interrupt() as interrupt, _progress() as bar, closing(batches):
        shown = bar.add_task("training", total=schedule.steps, completed=done.step, note="")
        for batch in batches:
            value = _learn(model, task, batch, optimizer, schedule.rate(done.step), schedule)
            done.step += 1
            if done.step % schedule.validate_every == 0 or done.step == schedule.steps:
                score = _keep_best(model, task, done)
                bar.console.print(f"step {done.step}: loss {value:.4f}, validation {score:.4f}")
            bar.update(shown, completed=done.step, note=f"loss {value:.3f}  best {max(done.best, 0):.4f}")
            done.seconds = clock.spent()
            if interrupt.asked or done.step == schedule.steps or clock.due():
                save(model, optimizer, done, state_file)
            if interrupt.asked:
                raise KeyboardInterrupt
    model.load_state_dict(done.best_weights)
    return done


def make_optimizer(model: nn.Module, schedule: Schedule) -> Optimizer:
    """AdamW on what is not frozen; weight decay on the matrices and kernels only."""
    learning = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in learning if p.ndim > 1]
    vectors = [p for p in learning if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": schedule.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, 0.98))


def _learn(model: Model, task: Task[Model], batch: Batch, optimizer: Optimizer, rate: float, how: Schedule) -> float:
    """One step at this learning rate; returns the loss."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how.bfloat16):
        total = task.loss(model, batch)
    value = float(total.item())
    if not math.isfinite(value):
        raise MeasurementError(f"the loss became {value}", fix="Lower the peak learning rate.")
    torch.autograd.backward(total)
    nn.utils.clip_grad_norm_(model.parameters(), how.clip)
    optimizer.step()
    return value


def _keep_best(model: Model, task: Task[Model], done: Progressed) -> float:
    model.eval()
    score = task.validate(model)
    if score >= done.best:
        done.best, done.best_step = score, done.step
        done.best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
    return score


def save(model: nn.Module, optimizer: Optimizer, done: Progressed, path: Path) -> None:
    """Write the whole state beside `path`, then rename: a kill leaves the old state or the new one."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "progress": {name: getattr(done, name) for name in Progressed.__slots__},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def restore(model: nn.Module, optimizer: Optimizer, path: Path) -> Progressed:
    """Take up the state in `path`, or start afresh where there is none."""
    if not path.is_file():
        return Progressed()
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        fix = "Delete it to start afresh."
        raise ModelError(f"{path} is not a state of this training: {error}", fix=fix) from error
    torch.set_rng_state(state["rng"])
    return Progressed(**state["progress"])


class _Interrupt:
    """Turns the first Ctrl-C into a note, so that no step is cut in half; the second one gets through."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupt:  # noqa: PYI034 - typing.Self is not in 3.10
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


class _Clock:
    """Seconds spent, over earlier runs too, and when to save next."""

    def __init__(self, before: float, every: float) -> None:
        self._start = time.monotonic() - before
        self._every = every
        self._saved = time.monotonic()

    def spent(self) -> float:
        return time.monotonic() - self._start

    def due(self) -> bool:
        if time.monotonic() - self._saved < self._every:
            return False
        self._saved = time.monotonic()
        return True


def _progress() -> progress.Progress:
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
    )
