"""A factory that returns a pipeline: what is wrong with it is told by part, link and tensor."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mmtrt.artifacts import StageCache
from mmtrt.errors import MachineError, MmtrtError, ModelError, RecipeError, SampleError, UsageError
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.export.sources import load_source
from mmtrt.parts import Pipeline
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.parts_export import export_parts, module_subjects, publish_parts
from mmtrt.pipeline.parts_flow import Flow, events_of, golden_events
from mmtrt.pipeline.run import run_recipe
from mmtrt.recipe import Recipe
from mmtrt.samples import open_set


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> StageCache:
    return StageCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pipeline], str]:
    """Offer a pipeline under a name that a recipe can say."""

    def offer(made: Pipeline) -> str:
        module = ModuleType("offered_parts")
        module.factory = lambda: made  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "offered_parts", module)
        return "offered_parts:factory"

    return offer


def base(name: str = "speaking") -> Pipeline:
    import parts_fusion

    made: Pipeline = getattr(parts_fusion, name)()
    return made


def test_parts_know_their_inputs_links_and_ranges() -> None:
    source = open_source("parts_fusion:speaking")
    assert isinstance(source, PipelineSource)
    assert [tensor.name for tensor in source.wiring.inputs] == ["image", "ids", "mask"]
    # Linked inputs need no example: they are what the link gives.
    assert source.parts["fuser"].examples["regions"].shape == (2, 16, 16)
    # A size is the same in all parts, whoever tells its range; the cache starts with one empty slot.
    assert source.parts["speaker"].ranges == {"batch": (1, 2, 8), "text": (2, 5, 8), "past": (1, 4, 8)}


def changed(part: str, **changes: Any) -> Pipeline:
    """Change a part's axes or its fourth item."""
    made = base()
    module, inputs, axes, extra = made.parts[part]
    new = (module, {**inputs, **changes.get("inputs", {})}, {**axes, **changes.get("axes", {})}, extra)
    new = (*new[:3], {key: value for key, value in {**extra, **changes.get("extra", {})}.items() if value is not None})
    return dataclasses.replace(made, parts={**made.parts, part: new})


def linked(*links: str) -> Pipeline:
    return dataclasses.replace(base(), links=links)


def stepped(**changes: Any) -> Pipeline:
    made = base()
    assert made.step is not None
    return dataclasses.replace(made, step=dataclasses.replace(made.step, **changes))


def trained() -> Pipeline:
    made = base()
    made.parts["eye"][0].train()
    return made


LOOKED = "fuser.fused -> speaker.fused"
MISTAKES: dict[str, tuple[Callable[[], Pipeline], tuple[str, ...]]] = {
    "unknown part": (lambda: linked("eye.regions -> fusser.regions", LOOKED), ("no part 'fusser'", "'fuser'")),
    "unknown output": (
        lambda: linked("eye.region -> fuser.regions", LOOKED),
        ("linked to eye.region, which is no output", "'regions'"),
    ),
    "circle": (
        lambda: linked("eye.regions -> fuser.regions", LOOKED, "fuser.fused -> eye.image"),
        ("leads backwards", "eye, fuser, speaker"),
    ),
    "unused output": (lambda: dataclasses.replace(base(), outputs=()), ("fuser.answer feeds nothing",)),
    "type": (
        lambda: changed("speaker", inputs={"fused": np.zeros((2, 5, 16), dtype=np.float64)}),
        ("fuser.fused is float32", "speaker.fused is float64"),
    ),
    "shape": (
        lambda: changed("fuser", inputs={"regions": np.zeros((2, 9, 16), dtype=np.float32)}),
        ("eye.regions has the shape (2, 16, 16)", "(batch, 9, 16)"),
    ),
    "no names": (lambda: changed("eye", extra={"outputs": None}), ("[eye] names no outputs",)),
    "two ranges": (
        lambda: changed("fuser", extra={"ranges": {"batch": [1, 2, 4]}}),
        ("'batch'", "'eye'", "'fuser'"),
    ),
    "training": (trained, ("[eye]", "training mode")),
    "step": (lambda: stepped(token="tokken"), ("'speaker' has no input 'tokken'", "'token'")),
}


@pytest.mark.parametrize("which", MISTAKES)
def test_a_mistake_is_told(which: str, offered: Callable[[Pipeline], str]) -> None:
    make, words = MISTAKES[which]
    with pytest.raises(ModelError) as caught:
        open_source(offered(make()))
    for word in words:
        assert word in str(caught.value)
    assert caught.value.fix
    assert "offered_parts:factory" in caught.value.message


@pytest.mark.parametrize("error", [MachineError("no GPU here"), MemoryError("1 TB")])
def test_what_the_machine_lacks_is_no_fault_of_the_model(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def factory() -> Any:
        raise error

    module = ModuleType("offered_parts")
    module.factory = factory  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "offered_parts", module)
    with pytest.raises(type(error)) as caught:
        open_source("offered_parts:factory")
    assert caught.value is error


def opened(reference: str) -> PipelineSource:
    source = open_source(reference)
    assert isinstance(source, PipelineSource)
    return source


def test_events_are_asked_for_in_the_number_that_is_wanted() -> None:
    # By itself it yields 48.
    source = opened("parts_fusion:two")
    assert len(list(events_of(source, None, 60))) == 60
    untold = dataclasses.replace(source, samples=lambda: base("two").samples())  # type: ignore[misc]
    with pytest.raises(SampleError, match="gives 48 samples where 60 were asked for"):
        list(events_of(untold, None, 60))


class Drawn:
    """Events that stand for no data."""

    on_data = False

    def __call__(self, count: int = 4) -> Any:
        return base("two").samples(count)  # type: ignore[misc]


def test_what_is_made_of_samples_that_are_no_data_is_none(tmp_path: Path) -> None:
    own = StageCache(tmp_path / "cache")
    of_data = dataclasses.replace(opened("parts_fusion:two"), samples=lambda: base("two").samples(4))  # type: ignore[misc]
    drawn = dataclasses.replace(of_data, samples=Drawn())
    # The same arrays, of which the cache has what was made when they were data.
    flow = Flow(Context(cache=own), of_data.wiring, events_of(of_data, None, None))
    flow.subjects |= module_subjects(of_data)
    assert open_set(str(flow.feeds("fuser"))).on_data
    made = publish_parts(export_parts(Context(cache=own), drawn, opset=18), tmp_path / "made", "two")
    assert not made.events.on_data
    for path in (made.golden, *(folder for part in made.parts.values() for folder in (part.calibration, part.golden))):
        assert not open_set(str(path)).on_data, path.name


def test_another_runtime_runs_the_parts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened("parts_fusion:two")
    subjects = module_subjects(source)
    events = events_of(source, None, 4)

    def made() -> tuple[Path, Path]:
        context = Context(cache=StageCache(tmp_path))
        flow = Flow(context, source.wiring, events)
        flow.subjects |= subjects
        flow.feeds("fuser")
        return next((tmp_path / "outputs").iterdir()), golden_events(context, source.wiring, subjects, events, 2)

    first = made()
    assert made() == first
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "onnxruntime" else version(name))
    second = made()
    assert second[1] != first[1]
    assert len(list((tmp_path / "outputs").iterdir())) == 2


def recipe(source: str, **more: Any) -> Recipe:
    return Recipe.model_validate({"name": "r", "model": {"source": source, **more.pop("model", {})}, **more})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": "parts_fusion:two", "parts": {"fusser": {}}}, ("'fusser'", "'fuser'")),
        ({"source": "tiny_fusion:factory", "parts": {"eye": {}}}, ("eye", "is a model in one")),
        ({"source": "parts_fusion:two", "model": {"ranges": {"text_": (1, 2, 3)}}}, ("'text_'", "'text'")),
    ],
)
def test_a_recipe_for_other_parts_is_refused_before_anything_is_done(
    given: dict[str, Any], words: tuple[str, ...], tmp_path: Any
) -> None:
    told: list[str] = []
    with pytest.raises(MmtrtError) as caught:
        run_recipe(Context(stage=told.append), recipe(**given), tmp_path / "made")
    assert isinstance(caught.value, (RecipeError, ModelError))
    for word in words:
        assert word in str(caught.value)
    assert not told
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parity": {"budget": {"fp32": {"phrase_agreement": 1}}}}, "'phrase_agreement' is for phrases"),
        ({"parity": {"budget": {"fp32": {"answer:phrase_agreement": 1}}}}, "'answer' generates none"),
        ({"parts": {"eye": {"budget": {"int8": {"phrase_agreement": 1}}}}}, "there are none"),
    ],
)
def test_a_budget_for_phrases_where_none_are_generated_is_refused(
    given: dict[str, Any], message: str, tmp_path: Path, cache: StageCache
) -> None:
    given = {"precision": {"build": ["fp32"]}, "bench": {"duration_s": 0.01}, **given}
    with pytest.raises(UsageError, match=message):
        run_recipe(Context(cache=cache), recipe("parts_fusion:two", **given), tmp_path / "made")
    assert not list((tmp_path / "made").rglob("*.engine")), "refused before anything is built"


def test_a_command_for_one_model_says_what_takes_several() -> None:
    with pytest.raises(ModelError, match=r"several parts \(eye, fuser\)") as caught:
        load_source("parts_fusion:two")
    assert "mmtrt run" in str(caught.value.fix)
