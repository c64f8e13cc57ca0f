"""Train a model of the zoo: `python -m mmtrt.zoo.train vqa-coattention`.

Run it again after a kill or a Ctrl-C, and it goes on where it stopped. Each run has a directory of its own
under `--out`: `state.pt` while training, then `model.safetensors` and `result.json`.
`--blind MODALITY` trains without that modality, to see what the others give away.
`--install` puts the checkpoint and the card into `mmtrt-zoo`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from torch import Tensor, nn

from mmtrt.artifacts import write_json
from mmtrt.errors import EXIT_INTERRUPTED, MmtrtError, UsageError
from mmtrt.zoo import TRAINED
from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.training import card
from mmtrt.zoo.training.evaluate import evaluate
from mmtrt.zoo.training.lesson import SEEING, Lesson, Phase, find_lesson
from mmtrt.zoo.training.loop import Progressed, Schedule, Task, fit
from mmtrt.zoo.training.macs import mac_counts, parameter_counts

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Generic[Model]):
    """One training run: the lesson, what it is blind to, for how long, and the folder of its files."""

    lesson: Lesson[Model]
    blind: str
    schedule: Schedule
    folder: Path

    def phase_state(self, name: str) -> Path:
        """Where a phase before the training keeps its state; it is shared by the runs of a seed."""
        return self.folder.parent / f"{name}-seed{self.schedule.seed}" / "state.pt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned(Generic[Model]):
    """The model in eval mode, what it started from, and what was reached: by phase, and at the end."""

    model: Model
    start: str
    before: dict[str, Progressed]
    done: Progressed


def train(run: Run[Model]) -> Learned[Model]:
    """Train from the run's seed, or from where its folder says."""
    lesson, events = run.lesson, run.lesson.validation_events
    torch.manual_seed(run.schedule.seed)
    model = lesson.make()
    start = lesson.start(model) if lesson.start else ""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = {phase.name: _learn_first(phase, model, run) for phase in lesson.before}

    def loss(learning: Model, batch: Batch) -> Tensor:
        return lesson.loss(learning, batch, run.blind)

    def validate(candidate: Model) -> float:
        return lesson.scores(candidate, "validation", events, run.blind)[lesson.metric]

    task = Task(make=lesson.batch, loss=loss, validate=validate, data=lesson.data_digest)
    done = fit(model, task, run.schedule, run.folder / "state.pt")
    return Learned(model=model.eval(), start=start, before=before, done=done)


def _learn_first(phase: Phase[Model], model: Model, run: Run[Model]) -> Progressed:
    """Let one part of the model learn alone."""

    def validate(part: nn.Module) -> float:
        return phase.score(part, run.lesson.validation_events)

    task = Task(make=phase.batch, loss=phase.loss, validate=validate, data=run.lesson.data_digest)
    return fit(phase.part(model), task, _seeded(phase, run), run.phase_state(phase.name))


def _seeded(phase: Phase[Any], run: Run[Any]) -> Schedule:
    return replace(phase.schedule, seed=run.schedule.seed, bfloat16=run.schedule.bfloat16)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(argv)
    torch.set_num_threads(options.threads)
    say = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    try:
        run = _plan(options)
        _finish(run, options, say)
    except KeyboardInterrupt:
        say.print(f"Stopped; all is saved in {options.out / options.name}. Run the same command to go on.")
        return EXIT_INTERRUPTED
    except MmtrtError as error:
        say.print(f"error: {error}")
        return error.exit_code
    return 0


def _finish(run: Run[Any], options: argparse.Namespace, say: Console) -> None:
    """Train and evaluate unless that is done, then install if asked to."""
    result_file, lesson = run.folder / "result.json", run.lesson
    if not _is_finished(result_file, run.schedule.steps):
        learned = train(run)
        dtype = torch.float16 if options.half else torch.float32
        path = run.folder / "model.safetensors"
        weights = card.write_checkpoint(learned.model, path, _metadata(run, learned.done), dtype)
        write_json(result_file, _result(run, learned, weights))
    result = json.loads(result_file.read_text(encoding="utf-8"))
    said = f"blind to: {run.blind}" if run.blind else "seeing all"
    say.print(f"{lesson.name}, {said}; test {lesson.metric} {result['test'][lesson.metric]:.4f}")
    say.print(f"in {run.folder}")
    if options.install:
        for path in card.install(lesson, run.folder, notes=options.note):
            say.print(f"wrote {path}")


def _is_finished(result_file: Path, steps: int) -> bool:
    """Whether the run has been evaluated after so many steps; with more steps asked for it goes on."""
    if not result_file.is_file():
        return False
    schedule = json.loads(result_file.read_text(encoding="utf-8"))["training"]["schedule"]
    return bool(schedule["steps"] >= steps)


def _result(run: Run[Any], learned: Learned[Any], digest: str) -> dict[str, Any]:
    """All that the card says of one run."""
    lesson = run.lesson
    return {
        "name": lesson.name,
        "blind": run.blind,
        "model": _sizes(lesson, learned.model),
        "start": learned.start,
        "before": [
            {"name": p.name, "what": p.what} | _training(_seeded(p, run), learned.before[p.name]) for p in lesson.before
        ],
        "training": _training(run.schedule, learned.done),
        "machine": card.trained_on(),
        "checkpoint_sha256": digest,
    } | evaluate(lesson, learned.model, run.blind)


def _training(schedule: Schedule, done: Progressed) -> dict[str, Any]:
    """Tell what one phase took and reached."""
    return {
        "schedule": asdict(schedule),
        "seconds": round(done.seconds, 1),
        "history": done.history,
        "best_step": done.best_step,
        "validation_score": done.best,
    }


def _sizes(lesson: Lesson[Any], model: nn.Module) -> dict[str, Any]:
    """Sizes, parameters, and the multiply-accumulates of one event of the largest size."""
    inputs, config = lesson.inputs(), getattr(model, "config", None)
    return {
        "config": asdict(config) if is_dataclass(config) and not isinstance(config, type) else {},
        "parameters": parameter_counts(model),
        "macs": mac_counts(model, inputs),
        "macs_at": {name: list(value.shape) for name, value in inputs.items()},
    }


def _metadata(run: Run[Any], done: Progressed) -> dict[str, str]:
    seed, step = str(run.schedule.seed), str(done.best_step)
    return {"name": run.lesson.name, "seed": seed, "step": step, "blind": run.blind}


def _plan(options: argparse.Namespace) -> Run[Any]:
    lesson = find_lesson(options.name)
    if options.blind != SEEING and options.blind not in lesson.modalities:
        raise UsageError(
            f"{lesson.name} has no modality {options.blind!r} to be blind to",
            fix=f"It has {', '.join(lesson.modalities)}.",
        )
    usual = lesson.schedule
    schedule = replace(
        usual,
        steps=options.steps or lesson.blind_steps.get(options.blind, usual.steps),
        seed=usual.seed if options.seed is None else options.seed,
        peak=options.peak or usual.peak,
        size=BatchSize(
            scenes=options.scenes or usual.size.scenes,
            questions=usual.size.questions if options.questions is None else options.questions,
        ),
        bfloat16=options.bfloat16,
    )
    folder = options.out / lesson.name / card.run_name(options.blind, schedule.seed)
    return Run(lesson=lesson, blind=options.blind, schedule=schedule, folder=folder)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    cache = Path(os.environ.get("MMTRT_CACHE_DIR") or Path.home() / ".cache" / "mmtrt")
    parser = argparse.ArgumentParser(prog="python -m mmtrt.zoo.train", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=sorted(TRAINED))
    parser.add_argument("--out", type=Path, default=cache / "zoo", help="where runs are kept (%(default)s)")
    parser.add_argument("--steps", type=int, help="length of the schedule (the lesson's)")
    parser.add_argument("--seed", type=int, help="(the lesson's)")
    parser.add_argument("--peak", type=float, help="highest learning rate (the lesson's)")
    parser.add_argument("--scenes", type=int, help="scenes, or events, per step (the lesson's)")
    parser.add_argument("--questions", type=int, help="questions per scene (the lesson's)")
    parser.add_argument("--blind", metavar="MODALITY", default=SEEING, help="train without this modality")
    # Models this small gain little by more threads, which wait for one another where the machine is shared.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=card.has_bfloat16())
    parser.add_argument("--half", action="store_true", help="store the checkpoint in half precision, and score that")
    parser.add_argument("--install", action="store_true", help="put checkpoint and card into mmtrt-zoo")
    parser.add_argument("--note", action="append", default=[], help="with --install: a line for the card")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
