"""The gate fails on each planted fault, by its defaults alone, and passes what is correct."""

from __future__ import annotations

import onnx
import pytest
from fault_planting import FAULTS, Built, Judged, told

PRECISIONS = ("fp32", "fp16", "int8")
PLACELESS = {name: fault for name, fault in FAULTS.items() if not fault[2]}
"""Of the others, test_located.py asks for the module as well."""


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_correct_build_passes(built: Built, judge: Judged, precision: str) -> None:
    result = judge(built("factory", precision))

    assert (result.verdict, told(result)) == ("pass", [])
    assert {case.kind for case in result.stress} >= {"corner", "masked"}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PLACELESS)
def test_a_planted_fault_fails(built: Built, judge: Judged, name: str, precision: str) -> None:
    plant, where, _ = PLACELESS[name]
    result = judge(plant(onnx.load(str(built("factory", precision))), *where))

    assert result.verdict == "fail"
    assert told(result) != []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("source", ["other_checkpoint", "batch_statistics"])
def test_a_fault_of_the_module_that_was_exported_fails(
    built: Built, judge: Judged, source: str, precision: str
) -> None:
    assert judge(built(source, precision)).verdict == "fail"


def test_a_module_that_drops_at_random_fails(judge: Judged) -> None:
    assert judge("planted_fusion:dropout_on").verdict == "fail"
    assert judge("planted_fusion:factory").verdict == "pass"


def test_planting_leaves_the_original_as_it_was(built: Built) -> None:
    proto = onnx.load(str(built("factory", "int8")))
    before = proto.SerializeToString(deterministic=True)
    for plant, where, _ in FAULTS.values():
        changed = plant(proto, *where)
        onnx.checker.check_model(changed)
        assert changed.SerializeToString(deterministic=True) != before
    assert proto.SerializeToString(deterministic=True) == before
