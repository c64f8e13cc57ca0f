"""Train a model of the zoo: `python -m mmtrt.zoo.train vqa-coattention`.

Run it again after a kill or a Ctrl-C, and it goes on where it stopped. Each run has a directory of its own
under `--out`: `state.pt` while training, then `model.safetensors` and `result.json`.
`--blind image` and `--blind question` train without that modality, to see what the other one gives away.
`--install` puts the checkpoint and the card into the package.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from torch import Tensor

from mmtrt.artifacts import write_json
from mmtrt.errors import EXIT_INTERRUPTED, MmtrtError
from mmtrt.zoo import TRAINED, card
from mmtrt.zoo.batches import Batch, BatchSize, picture_batch, training_batch
from mmtrt.zoo.evaluate import TEST_EVENTS, Blind, evaluate, majority, to_inputs
from mmtrt.zoo.heads import joint_loss
from mmtrt.zoo.loop import Progressed, Schedule, Task, fit
from mmtrt.zoo.macs import mac_counts, parameter_counts
from mmtrt.zoo.pictures import PictureReader, picture_loss, things_read
from mmtrt.zoo.scenes import IMAGE_SIZE
from mmtrt.zoo.vqa_coattention import VqaCoattention, VqaConfig
from mmtrt.zoo.words import TEXT_MAX

_VALIDATION_EVENTS: Final = 1000
_PICTURE_STEPS: Final = 800
_STEPS: Final = {"none": 4800, "image": 400, "question": 250}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: what is trained, how, and where it keeps its files.

    The image encoder learns to read pictures first; all runs of one seed share that.
    """

    name: str
    blind: Blind
    pictures: Schedule
    schedule: Schedule
    folder: Path
    config: VqaConfig

    @property
    def pictures_folder(self) -> Path:
        """Where the image encoder's own training keeps its state."""
        return self.folder.parent / f"pictures-seed{self.pictures.seed}"


def vqa_loss(model: VqaCoattention, batch: Batch, blind: Blind = "none") -> Tensor:
    """Joint loss of a batch; each picture is encoded once for all of its questions."""
    image, ids, mask = to_inputs(batch, blind)
    tokens = model.encode_image(image.contiguous(memory_format=torch.channels_last))
    tokens = tokens.repeat_interleave(len(ids) // len(image), dim=0)
    answer, match, generate = (torch.from_numpy(batch[k]) for k in ("answer", "match", "generate"))
    return joint_loss(model.fuse(tokens, ids, mask), (answer, match, generate))


def train(run: Run, events: int = _VALIDATION_EVENTS) -> tuple[VqaCoattention, Progressed, Progressed]:
    """Train from the run's seed, or from where its folder says; the model comes back in eval mode.

    Also returned: what the image encoder's own training reached, and what the whole model's did.
    `events` is the size of the validation set.
    """
    torch.manual_seed(run.schedule.seed)
    model = VqaCoattention(run.config)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    reader = PictureReader(model.image_encoder, run.config.width)
    read = Task(make=picture_batch, loss=picture_loss, validate=partial(things_read, count=events))
    before = fit(reader, read, run.pictures, run.pictures_folder / "state.pt")

    def validate(candidate: VqaCoattention) -> float:
        return evaluate(candidate, "validation", events, run.blind).answer_accuracy

    task = Task(make=training_batch, loss=partial(vqa_loss, blind=run.blind), validate=validate)
    done = fit(model, task, run.schedule, run.folder / "state.pt")
    return model.eval(), before, done


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parse(argv)
    torch.set_num_threads(options.threads)
    say = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    run = _plan(options)
    try:
        _finish(run, options, say)
    except KeyboardInterrupt:
        say.print(f"Stopped; all is saved in {run.folder}. Run the same command to go on.")
        return EXIT_INTERRUPTED
    except MmtrtError as error:
        say.print(f"error: {error}")
        return error.exit_code
    return 0


def _finish(run: Run, options: argparse.Namespace, say: Console) -> None:
    """Train and evaluate unless that is done, then install if asked to."""
    result_file = run.folder / "result.json"
    if not _is_finished(result_file, run.schedule.steps):
        model, before, done = train(run)
        weights = card.write_checkpoint(model, run.folder / "model.safetensors", _metadata(run, done))
        write_json(result_file, _result(run, model, (before, done), weights))
    result = json.loads(result_file.read_text(encoding="utf-8"))
    say.print(f"{run.name}, blind: {run.blind}; test answer accuracy {result['test']['answer_accuracy']:.4f}")
    say.print(f"in {run.folder}")
    if options.install:
        for path in card.install(run.name, options.out / run.name, run.folder, notes=options.note):
            say.print(f"wrote {path}")


def _is_finished(result_file: Path, steps: int) -> bool:
    """Whether the run has been evaluated after so many steps; with more steps asked for it goes on."""
    if not result_file.is_file():
        return False
    schedule = json.loads(result_file.read_text(encoding="utf-8"))["training"]["schedule"]
    return bool(schedule["steps"] >= steps)


def _result(run: Run, model: VqaCoattention, phases: tuple[Progressed, Progressed], digest: str) -> dict[str, Any]:
    """All that the card says of one run."""
    blinds: tuple[Blind, ...] = ("image", "question") if run.blind == "none" else ()
    return {
        "name": run.name,
        "blind": run.blind,
        "model": _sizes(model),
        "pictures": _training(run.pictures, phases[0]),
        "training": _training(run.schedule, phases[1]),
        "machine": card.trained_on(),
        "checkpoint_sha256": digest,
        "majority": majority("test", TEST_EVENTS),
        "test": asdict(evaluate(model, "test", TEST_EVENTS, run.blind)),
        "test_blinded": {b: asdict(evaluate(model, "test", TEST_EVENTS, b)) for b in blinds},
    }


def _training(schedule: Schedule, done: Progressed) -> dict[str, Any]:
    """Tell what one phase took and reached."""
    return {
        "schedule": asdict(schedule),
        "scenes_seen": done.step * schedule.size.scenes,
        "questions_seen": done.step * schedule.size.scenes * schedule.size.questions,
        "seconds": round(done.seconds, 1),
        "history": done.history,
        "best_step": done.best_step,
        "validation_score": done.best,
    }


def _sizes(model: VqaCoattention) -> dict[str, Any]:
    """Sizes, parameters, and the multiply-accumulates of one picture with the longest text."""
    text = torch.ones((1, TEXT_MAX), dtype=torch.int64)
    image = torch.zeros((1, 3, IMAGE_SIZE, IMAGE_SIZE))
    macs = mac_counts(model, {"image": image, "ids": text, "mask": text})
    parameters = parameter_counts(model)
    return {"config": asdict(model.config), "parameters": parameters, "macs": macs, "macs_at_text": TEXT_MAX}


def _metadata(run: Run, done: Progressed) -> dict[str, str]:
    seed, step = str(run.schedule.seed), str(done.best_step)
    return {"name": run.name, "seed": seed, "step": step, "blind": run.blind}


def _plan(options: argparse.Namespace) -> Run:
    steps = options.steps or _STEPS[options.blind]
    schedule = Schedule(
        steps=steps,
        seed=options.seed,
        peak=options.peak,
        size=BatchSize(scenes=options.scenes, questions=options.questions),
        bfloat16=options.bfloat16,
    )
    pictures = replace(schedule, steps=_PICTURE_STEPS, size=BatchSize(scenes=64, questions=0), peak=2e-3)
    folder = options.out / options.name / f"{options.blind}-seed{options.seed}"
    return Run(
        name=options.name,
        blind=options.blind,
        pictures=pictures,
        schedule=schedule,
        folder=folder,
        config=VqaConfig(),
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    cache = Path(os.environ.get("MMTRT_CACHE_DIR") or Path.home() / ".cache" / "mmtrt")
    parser = argparse.ArgumentParser(prog="python -m mmtrt.zoo.train", description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=TRAINED)
    parser.add_argument("--out", type=Path, default=cache / "zoo", help="where runs are kept (%(default)s)")
    parser.add_argument("--steps", type=int, help="length of the schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate (%(default)s)")
    parser.add_argument("--scenes", type=int, default=32, help="pictures per step (%(default)s)")
    parser.add_argument("--questions", type=int, default=8, help="questions per picture (%(default)s)")
    parser.add_argument("--blind", choices=("none", "image", "question"), default="none")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=card.has_bfloat16())
    parser.add_argument("--install", action="store_true", help="put checkpoint and card into the package")
    parser.add_argument("--note", action="append", default=[], help="with --install: a line for the card")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
