"""A budget that travels with the model: what it judges, what it needs labels for, and what comes before it."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest

from mmtrt.artifacts import StageCache
from mmtrt.errors import InputError
from mmtrt.onnx_files import BUDGET_KEY, set_metadata
from mmtrt.parity.budget import DEFAULTS
from mmtrt.pipeline.checking import check_files, default_samples
from mmtrt.pipeline.context import Context
from mmtrt.samples import SampleSet, open_set, split_label


@pytest.fixture
def carrying(tiny: Path, tmp_path: Path) -> Path:
    """The test model with a parity budget of its own."""
    proto = onnx.load(str(tiny))
    set_metadata(proto, {BUDGET_KEY: '{"answer:accuracy_drop": 0.01, "sqnr_db": 60.0}'})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def context(folder: Path, notes: list[str]) -> Context:
    return Context(cache=StageCache(folder / "cache"), note=notes.append)


def labelled(tiny: Path) -> SampleSet:
    return open_set(str(tiny.with_name("tiny.calib")))


def unlabelled(tiny: Path) -> SampleSet:
    given = labelled(tiny)
    return SampleSet(source="bare", key="bare", read=lambda: (split_label(sample)[0] for sample in given))


def test_a_carried_budget_is_judged_with_the_task_metrics_that_it_names(
    carrying: Path, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = check_files(context(tmp_path, notes), str(carrying), str(tiny), labelled(tiny))
    answer, match = result.outputs["answer"], result.outputs["match"]
    assert result.verdict == "pass"
    assert answer.budget == {"non_finite": 0.0, "sqnr_db": 60.0, "accuracy_drop": 0.01}
    assert answer.task == answer.reference_task
    assert 0 <= answer.task["accuracy"] <= 1
    assert (match.task, match.budget) == ({}, {"non_finite": 0.0, "sqnr_db": 60.0})
    assert notes == []


def test_without_labels_the_rest_of_a_carried_budget_is_judged_and_that_is_said(
    carrying: Path, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = check_files(context(tmp_path, notes), str(carrying), str(tiny), unlabelled(tiny))
    assert result.outputs["answer"].budget == {"non_finite": 0.0, "sqnr_db": 60.0}
    assert any("answer:accuracy_drop" in note for note in notes)


def test_without_labels_a_budget_that_was_given_is_refused(carrying: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels") as refused:
        check_files(context(tmp_path, []), str(carrying), str(tiny), unlabelled(tiny), {"answer:accuracy_drop": 0.01})
    assert "label.answer" in str(refused.value)


def test_a_budget_that_is_given_comes_first(carrying: Path, tiny: Path, tmp_path: Path) -> None:
    result = check_files(context(tmp_path, []), str(carrying), str(tiny), labelled(tiny), {"answer:max_abs": 1e-9})
    assert result.outputs["answer"].budget == {"non_finite": 0.0, "max_abs": 1e-9}
    assert result.outputs["match"].budget == {"non_finite": 0.0}


def test_the_set_that_lies_beside_is_taken_the_larger_one_first(tmp_path: Path) -> None:
    for name in ("vqa.golden", "vqa.calib"):
        (tmp_path / name).mkdir()
    assert default_samples(str(tmp_path / "vqa.int8.engine")) == str(tmp_path / "vqa.calib")
    shutil.rmtree(tmp_path / "vqa.calib")
    assert default_samples("zoo:vqa", str(tmp_path / "vqa.onnx")) == str(tmp_path / "vqa.golden")


def carrying_only(tiny: Path, path: Path, budget: str) -> str:
    proto = onnx.load(str(tiny))
    set_metadata(proto, {BUDGET_KEY: budget})
    onnx.save(proto, str(path))
    return str(path)


def test_a_carried_drop_for_every_output_is_judged_where_there_are_labels(tiny: Path, tmp_path: Path) -> None:
    model = carrying_only(tiny, tmp_path / "model.onnx", '{"accuracy_drop": 0.01}')
    notes: list[str] = []
    result = check_files(context(tmp_path, notes), model, str(tiny), labelled(tiny))
    assert [output.budget["accuracy_drop"] for output in result.outputs.values()] == [0.01, 0.01]
    assert notes == []


def test_where_nothing_of_a_carried_budget_can_be_judged_the_default_is(tiny: Path, tmp_path: Path) -> None:
    model = carrying_only(tiny, tmp_path / "model.onnx", '{"answer:accuracy_drop": 0.01}')
    result = check_files(context(tmp_path, []), model, str(tiny), unlabelled(tiny))
    assert result.outputs["answer"].budget == {"non_finite": 0.0, **DEFAULTS["fp32"]}
