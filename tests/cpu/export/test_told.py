"""What a factory tells of raw inputs and of classes, in its fourth item."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_fusion

from mmtrt.errors import ModelError
from mmtrt.export.sources import Source, load_source, source_from
from mmtrt.preprocess import parse_preprocessing


def telling(**told: Any) -> Source:
    module, inputs, axes, extra = tiny_fusion.factory()
    return source_from("a:factory", "a", (module, inputs, axes, {**extra, **told}), tiny_fusion.factory)


def test_it_is_told_as_data_as_a_file_or_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = parse_preprocessing(tiny_fusion.PREPROCESSING, "it")
    (tmp_path / "preprocessing.json").write_text(json.dumps(tiny_fusion.PREPROCESSING), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    told = (tiny_fusion.PREPROCESSING, "preprocessing.json", tmp_path / "preprocessing.json", one)
    assert [telling(preprocessing=way).preprocessing for way in told] == [one] * 4
    assert telling().labels == {name: tuple(names) for name, names in tiny_fusion.LABELS.items()}


def test_who_tells_nothing_has_none() -> None:
    source = load_source("tiny_fusion:plain")
    assert source.preprocessing is None
    assert source.labels == {}


IMAGE = tiny_fusion.PREPROCESSING["raw"]["image"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"preprocessing": 3}, "a:factory: preprocessing is a int"),
        ({"preprocessing": {}}, "the preprocessing of a:factory has another schema"),
        ({"preprocessing": "none.json"}, "can't read none.json"),
        (
            {"preprocessing": {"schema": "mmtrt.preprocessing/1", "raw": {"image": IMAGE}}},
            "the preprocessing of a:factory makes no input 'ids'",
        ),
        ({"labels": ["yes"]}, "labels is a list"),
        ({"labels": {"anser": ["yes", "no"]}}, "labels are given for 'anser', which is no output"),
        ({"labels": {"answer": "yes"}}, "the labels of 'answer' are no list of names"),
        ({"labels": {"answer": []}}, "the labels of 'answer' are no list of names"),
        ({"label": {}}, "unknown key 'label' .*\nDid you mean 'labels'"),
    ],
)
def test_what_is_told_wrong_is_refused(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        telling(**told)
