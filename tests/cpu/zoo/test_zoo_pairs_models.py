"""The trained retrieval, audio-text, recommend and medical."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmtrt.artifacts import StageCache
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.sources import load_source
from mmtrt.metrics import TASK_METRICS
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import export_stage, publish_export
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.zoo import REGISTRY, TRAINED
from mmtrt.zoo.checkpoints import checkpoint_path, weights_package
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.models import audio_text, medical, recommend, retrieval
from mmtrt.zoo.training import card
from mmtrt.zoo.training.lesson import SEEING
from mmtrt.zoo.training.macs import parameter_counts
from mmtrt.zoo.training.scoring import to_inputs

CLOSE = {"rtol": 1e-4, "atol": 2e-4}
EVENTS = 250
MODULES = {m.NAME: m for m in (retrieval, audio_text, recommend, medical)}


@pytest.fixture(scope="module", params=list(MODULES))
def module(request: pytest.FixtureRequest) -> ModuleType:
    return MODULES[request.param]


@pytest.fixture(scope="module")
def parts(module: ModuleType) -> Any:
    return module.factory()


@pytest.fixture(scope="module")
def written(module: ModuleType) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((weights_package() / "cards" / f"{module.NAME}.json").read_text("utf-8"))
    return read


def said(model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        told = model(**inputs)
    return told if isinstance(told, tuple) else (told,)


def drawn(module: ModuleType, count: int, split: str = "calibration") -> dict[str, Tensor]:
    return to_inputs(collate(list(module.samples(split, count)), module.LENGTHS), module.MODALITIES, SEEING)


def test_the_factory_tells_what_it_gives(module: ModuleType, parts: Any) -> None:
    model, inputs, axes, extra = parts
    assert not any(m.training for m in model.modules())
    assert axes.keys() == inputs.keys() == {n for names in extra["modalities"].values() for n in names}
    assert {size for of_input in axes.values() for size in of_input.values()} == set(extra["ranges"])
    for name, of_input in axes.items():
        for axis, size in of_input.items():
            assert inputs[name].shape[axis] == (2 if size == "batch" else extra["ranges"][size][1])
    sample = next(iter(extra["samples"](count=1)))
    assert set(inputs) | {f"label.{o}" for o in extra["outputs"]} == set(sample)
    assert all(sample[n].dtype == v.numpy().dtype for n, v in inputs.items())
    assert [len(one) for one in said(model, inputs)] == [2] * len(extra["outputs"])
    assert {name for names in module.METRICS.values() for name in names} <= set(TASK_METRICS)
    assert (f"{module.__name__}:factory", f"{module.__name__}:LESSON") == (REGISTRY[module.NAME], TRAINED[module.NAME])


def test_short_padded_and_missing_events_are_finite(module: ModuleType, parts: Any) -> None:
    assert all(torch.isfinite(one).all() for one in said(parts[0], drawn(module, 32)))


def test_a_missing_modality_is_finite_and_the_same_whatever_was_there(module: ModuleType, parts: Any) -> None:
    model, inputs = parts[0], drawn(module, 4, "test")
    for names in module.MODALITIES.values():
        blank = said(model, inputs | {n: torch.zeros_like(inputs[n]) for n in names})
        assert all(torch.isfinite(one).all() for one in blank)
        masks = [n for n in names if n.endswith("mask")]
        if masks:
            masked = said(model, inputs | {n: torch.zeros_like(inputs[n]) for n in masks})
            for one, two in zip(blank, masked, strict=True):
                torch.testing.assert_close(one, two, **CLOSE)


def test_padding_changes_nothing(module: ModuleType, parts: Any) -> None:
    for sample in module.samples("test", 6):
        alone = to_inputs(collate([sample], {}), module.MODALITIES, SEEING)
        filled = to_inputs(collate([sample], module.LENGTHS), module.MODALITIES, SEEING)
        for one, two in zip(said(parts[0], alone), said(parts[0], filled), strict=True):
            torch.testing.assert_close(one, two, **CLOSE)


def test_an_event_gets_the_same_alone_and_in_a_batch(module: ModuleType, parts: Any) -> None:
    inputs = drawn(module, 5)
    together = said(parts[0], inputs)
    for row in range(5):
        for one, two in zip(said(parts[0], {k: v[row : row + 1] for k, v in inputs.items()}), together, strict=True):
            torch.testing.assert_close(one[0], two[row], **CLOSE)


def test_the_checkpoint_scores_as_the_card_says_and_needs_each_modality(
    module: ModuleType, parts: Any, written: dict[str, Any]
) -> None:
    lesson, share = module.LESSON, written["test"][module.LESSON.metric]
    margin = 4 * math.sqrt(max(share * (1 - share), 0.01) / EVENTS)
    found = lesson.scores(parts[0], "test", EVENTS, SEEING)[lesson.metric]
    # In a smaller gallery more is found.
    assert share - margin < found < (1.001 if module is retrieval else share + margin)
    assert share > 0.8
    for blind, scores in written["test_blinded"].items():
        assert scores[lesson.metric] < share - 0.08, blind


def test_the_card_tells_of_this_checkpoint(module: ModuleType, parts: Any, written: dict[str, Any]) -> None:
    assert written["checkpoint_sha256"] == card.weights_digest(parts[0].state_dict())
    assert written["model"]["parameters"] == parameter_counts(parts[0])
    text = (weights_package() / "cards" / f"{module.NAME}.md").read_text(encoding="utf-8")
    assert text == card.markdown(written)
    assert set(written["test_blinded"]) == set(module.MODALITIES)
    assert checkpoint_path(module.NAME).stat().st_size <= 4_000_000


@pytest.mark.parametrize("name", ["audio-text", "recommend", "medical"])
def test_the_exported_graph_says_the_same_of_short_padded_and_missing_events(
    name: str, tmp_path: Path, shared_cache: Path
) -> None:
    source = load_source(f"zoo:{name}")
    context = Context(cache=StageCache(shared_cache))
    made = export_stage(context, source, ExportOptions(calibration_samples=64))
    with OrtRunner(publish_export(made, tmp_path, name).onnx, "parity") as runner:
        for sample in MODULES[name].samples("calibration", 16):
            feeds = {name: value[None] for name, value in sample.items() if not name.startswith("label.")}
            told = said(source.module, {name: torch.from_numpy(value) for name, value in feeds.items()})
            for one, two in zip(told, runner.infer(feeds).values(), strict=True):
                np.testing.assert_allclose(one.numpy(), two, **CLOSE)


def test_both_towers_give_unit_vectors_and_stand_alone() -> None:
    model, inputs, *_ = retrieval.factory()
    (both,) = said(model, inputs)
    torch.testing.assert_close(both.norm(dim=2), torch.ones(both.shape[:2]))
    with torch.inference_mode():
        torch.testing.assert_close(model.encode_image(inputs["image"]), both[:, 0], **CLOSE)
        torch.testing.assert_close(model.encode_text(inputs["ids"], inputs["mask"]), both[:, 1], **CLOSE)


def test_retrieval_starts_from_what_another_model_has_learned() -> None:
    torch.manual_seed(0)
    model = retrieval.Retrieval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert retrieval.PARENT in retrieval.start(model)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and value.numel() > 1:
            assert torch.equal(value, before[name]) == ("projection" in name), name


def test_what_is_missing_in_a_record_may_be_nan() -> None:
    model, inputs, *_ = medical.factory()
    holes = inputs | {"table": torch.where(inputs["table_mask"] > 0, inputs["table"], math.nan)}
    for one, two in zip(said(model, inputs), said(model, holes), strict=True):
        torch.testing.assert_close(one, two)
