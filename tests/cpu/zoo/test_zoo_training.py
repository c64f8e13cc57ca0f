from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from mmtrt.artifacts import write_json
from mmtrt.errors import InputError, MeasurementError
from mmtrt.zoo import train as training
from mmtrt.zoo.data.batches import BatchSize, batches_ahead, picture_batch, training_batch
from mmtrt.zoo.models.vqa_coattention import LESSON, VqaCoattention, VqaConfig
from mmtrt.zoo.train import Run
from mmtrt.zoo.training import card, loop, vqa
from mmtrt.zoo.training.lesson import SEEING, Lesson
from mmtrt.zoo.training.loop import Schedule, Task
from mmtrt.zoo.training.pictures import READING, PictureReader, picture_loss, things_read

# Not 4 channels: on a CPU with AVX2 but no AVX-512, the backward pass of a strided 1x1 convolution over so few writes
# beyond its memory where channels come last (oneDNN in PyTorch 2.13), and the process dies.
TINY = VqaConfig(width=16, heads=2, hidden=16, channels=(8, 8, 8), residual_blocks=1, text_blocks=1, fusion_blocks=1)


def tiny(folder: Path, events: int = 20, **changes: object) -> Run[VqaCoattention]:
    settings = {"steps": 5, "warmup": 2, "size": BatchSize(scenes=2, questions=3), "validate_every": 2}
    schedule = Schedule(**(settings | {"save_every_s": 0.0} | changes))
    reading = replace(READING, schedule=replace(schedule, steps=2))
    lesson = replace(LESSON, make=partial(VqaCoattention, TINY), before=(reading,), validation_events=events)
    return Run(lesson=lesson, blind=SEEING, schedule=schedule, folder=folder / "seeing")


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(training.train(tiny(tmp_path_factory.mktemp("unbroken"))).model)


def test_three_steps_change_the_weights(tmp_path: Path) -> None:
    learned = training.train(tiny(tmp_path, events=10, steps=3))
    model, before, done = learned.model, learned.before["pictures"], learned.done
    torch.manual_seed(0)
    fresh = VqaCoattention(TINY)
    assert (before.step, done.step) == (2, 3)
    assert done.seconds > 0
    assert not model.training
    assert not torch.equal(model.heads.answer.weight, fresh.heads.answer.weight)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_learning_lowers_the_loss_on_a_batch_seen_again() -> None:
    torch.manual_seed(0)
    model, schedule = VqaCoattention(TINY), Schedule(steps=40, warmup=5, peak=5e-3)
    batch = training_batch(0, 0, BatchSize(scenes=2, questions=4))
    optimizer = loop.make_optimizer(model, schedule)
    task = Task(make=training_batch, loss=vqa.loss, validate=lambda _: 0.0, data="")
    losses = [loop._learn(model, task, batch, optimizer, 5e-3, schedule) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, unbroken: dict[str, torch.Tensor]) -> None:
    assert_same(weights(training.train(tiny(tmp_path)).model), unbroken)


def test_another_seed_gives_other_weights(tmp_path: Path, unbroken: dict[str, torch.Tensor]) -> None:
    other = weights(training.train(tiny(tmp_path, seed=1)).model)
    assert not torch.equal(other["heads.answer.weight"], unbroken["heads.answer.weight"])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_zoo_training as tests
from mmtrt.zoo import train
from mmtrt.zoo.training import loop

def learn(*args, original=loop._learn, seen=[]):
    seen.append(1)
    if len(seen) == 6:  # two steps on pictures, three of the model
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)

if __name__ == "__main__":
    loop._learn = learn
    train.train(tests.tiny(Path(sys.argv[2])))
"""


def test_a_killed_run_goes_on_as_if_unbroken(tmp_path: Path, unbroken: dict[str, torch.Tensor]) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    here = str(Path(__file__).parent)
    ended = subprocess.run([sys.executable, str(script), here, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    saved = torch.load(tmp_path / "seeing" / "state.pt", weights_only=True)
    assert saved["progress"]["step"] == 3
    assert_same(weights(training.train(tiny(tmp_path)).model), unbroken)


def test_ctrl_c_ends_after_a_whole_step_and_the_run_goes_on(
    tmp_path: Path, unbroken: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = loop._learn, []

    def learn(*args: object) -> float:
        seen.append(1)
        if len(seen) == 5:  # two steps on pictures, three of the model
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(loop, "_learn", learn)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        training.train(tiny(tmp_path, save_every_s=1e9))
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(tmp_path / "seeing" / "state.pt", weights_only=True)["progress"]["step"] == 3
    assert_same(weights(training.train(tiny(tmp_path)).model), unbroken)


def test_the_command_says_how_to_go_on_after_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", stopped)
    assert training.main(["vqa-coattention", "--out", str(tmp_path)]) == 130
    assert "Run the same command to go on" in capsys.readouterr().err


def test_a_damaged_state_is_refused_with_a_way_out(tmp_path: Path) -> None:
    state = tiny(tmp_path).phase_state("pictures")
    state.parent.mkdir(parents=True)
    state.write_bytes(b"half a file")
    with pytest.raises(InputError, match="Delete it to start afresh"):
        training.train(tiny(tmp_path))


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    def broken(model: VqaCoattention, *_: object) -> torch.Tensor:
        return model.heads.answer.weight.sum() * float("nan")

    run = tiny(tmp_path)
    with pytest.raises(MeasurementError, match="nan"):
        training.train(replace(run, lesson=replace(run.lesson, loss=broken)))


def test_batches_made_ahead_are_the_batches_of_their_steps() -> None:
    size = BatchSize(scenes=1, questions=2)
    made = list(batches_ahead(training_batch, 4, 7, 10, size))
    assert len(made) == 3
    for step, batch in zip(range(7, 10), made, strict=True):
        assert all((batch[k] == v).all() for k, v in training_batch(4, step, size).items())


def test_the_image_encoder_learns_to_read_pictures() -> None:
    torch.manual_seed(0)
    reader = PictureReader(VqaCoattention(TINY).image_encoder, TINY.width)
    task = Task(make=picture_batch, loss=picture_loss, validate=lambda _: 0.0, data="")
    schedule = Schedule(steps=60)
    batch, optimizer = picture_batch(0, 0, BatchSize(scenes=4)), loop.make_optimizer(reader, schedule)
    losses = [loop._learn(reader, task, batch, optimizer, 1e-2, schedule) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
    assert 0 <= things_read(reader.eval(), 10) < 0.9


def test_the_schedule_rises_then_falls_to_nearly_nothing() -> None:
    schedule = Schedule(steps=100, warmup=10, peak=1.0)
    rates = [schedule.rate(s) for s in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] < 1e-3


def test_what_a_lesson_froze_stays_as_it_was(tmp_path: Path) -> None:
    def start(model: VqaCoattention) -> str:
        model.text_encoder.requires_grad_(False)
        return "Frozen words."

    run = tiny(tmp_path)
    learned = training.train(replace(run, lesson=replace(run.lesson, start=start)))
    torch.manual_seed(0)
    fresh = VqaCoattention(TINY).text_encoder.state_dict()
    assert learned.start == "Frozen words."
    assert_same(weights(learned.model.text_encoder), fresh)


def test_a_run_is_scored_with_each_modality_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny(tmp_path / "out" / "tiny", steps=2)
    lesson = replace(run.lesson, name="tiny", chance=lambda: {"commonest": 0.2}, test_events=20, schedule=run.schedule)
    lesson = replace(lesson, before=(), blind_steps={})
    monkeypatch.setattr(training, "TRAINED", {"tiny": "tiny:LESSON"})
    monkeypatch.setattr(training, "find_lesson", {"tiny": lesson}.__getitem__)
    command = ["tiny", "--out", str(tmp_path / "out"), "--no-bfloat16"]
    assert training.main(command) == 0
    assert training.main([*command, "--blind", "image", "--steps", "1"]) == 0
    runs = tmp_path / "out" / "tiny"
    seeing, blind = (json.loads((runs / n / "result.json").read_text()) for n in ("seeing-seed0", "blind-image-seed0"))
    assert set(seeing["test_blinded"]) == {"image", "question"}
    assert not blind["test_blinded"]
    paths = card.install(lesson, runs / "seeing-seed0", tmp_path / "package")
    written = json.loads(paths[1].read_text(encoding="utf-8"))
    assert set(written["trained_blind"]) == {"image"}
    assert paths[2].read_text(encoding="utf-8") == card.markdown(written)


def test_blindness_to_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert training.main(["vqa-coattention", "--out", str(tmp_path), "--blind", "sound"]) == 2
    assert "It has image, question." in capsys.readouterr().err


PHASE = {
    "schedule": {"seed": 0, "steps": 10, "size": {"scenes": 4, "questions": 2}, "bfloat16": True},
    "seconds": 90.0,
    "history": [{"from": 0, "steps": 6, "data": "a"}, {"from": 4, "steps": 10, "data": "b"}],
    "best_step": 10,
    "validation_score": 0.9,
}
RESULT = {
    "name": "vqa-coattention",
    "model": {
        "parameters": {"all": 100, "conv_linear_weights": 97},
        "macs": {"conv": 70, "linear": 29, "attention": 1},
        "macs_at": {"image": [1, 3, 64, 64]},
    },
    "start": "From another model.",
    "before": [PHASE | {"name": "pictures", "what": "pictures: things read"}],
    "training": PHASE,
    "machine": {"cpu": "CPU", "cores": 2, "torch": "2", "python": "3"},
    "checkpoint_sha256": "ab",
    "chance": {"commonest answer": 0.3},
    "test_events": 5000,
    "test": {"answer accuracy": 0.9712, "error [m]": 1.234},
    "test_blinded": {"image": {"answer accuracy": 0.21}, "question": {"answer accuracy": 0.22}},
}


def finished(runs: Path, blind: str, accuracy: float) -> Path:
    folder = runs / card.run_name(blind, 0)
    result = RESULT | {"test": RESULT["test"] | {"answer accuracy": accuracy}}
    write_json(folder / "result.json", result)
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_installing_puts_checkpoint_and_card_into_the_package(tmp_path: Path) -> None:
    runs = tmp_path / "vqa-coattention"
    main = finished(runs, SEEING, 0.9712)
    finished(runs, "image", 0.41)
    finished(runs, "question", 0.32)
    paths = card.install(LESSON, main, tmp_path / "package")
    assert paths[0].read_bytes() == b"weights"
    written = json.loads(paths[1].read_text(encoding="utf-8"))
    assert written["schema"] == "mmtrt.zoo-card/2"
    text = paths[2].read_text(encoding="utf-8")
    for figure in ("97.12%", "41.00%", "32.00%", "21.00%", "22.00%", "30.00%", "1.5", "1.23", "another version"):
        assert figure in text


def test_installing_without_the_blind_runs_that_the_lesson_names_says_what_to_run(tmp_path: Path) -> None:
    runs = tmp_path / "vqa-coattention"
    main = finished(runs, SEEING, 0.97)
    with pytest.raises(InputError, match="--blind image"):
        card.install(LESSON, main, tmp_path / "package")
    assert not (tmp_path / "package").exists()
    lesson: Lesson[VqaCoattention] = replace(LESSON, blind_steps={})
    assert card.install(lesson, main, tmp_path / "package")[0].is_file()


def test_a_run_can_be_made_longer_and_says_so(tmp_path: Path) -> None:
    training.train(tiny(tmp_path, events=5))
    done = training.train(tiny(tmp_path, events=5, steps=7)).done
    assert done.step == 7
    assert [(h["from"], h["steps"]) for h in done.history] == [(0, 5), (5, 7)]
    assert card._changes(done.history) == ["From step 5 on the schedule had 7 steps, before 5."]


def test_a_run_counts_as_finished_only_at_its_length(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    assert not training._is_finished(result, 10)
    write_json(result, RESULT)
    assert training._is_finished(result, 10)
    assert not training._is_finished(result, 11)
