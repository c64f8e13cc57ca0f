"""`--locate` names the module in which each fault was planted, in each precision."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fault_planting import FAULTS, Built, Graph, told

from mmtrt.artifacts import StageCache
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.locating import locate_files
from mmtrt.results import CheckResult, Located

PRECISIONS = ("fp32", "fp16", "int8")
PLACED = {name: fault for name, fault in FAULTS.items() if fault[2]}


def checked_and_located(built: Built, candidate: Path) -> tuple[CheckResult, Located]:
    """What `mmtrt check --locate` says, by the gate's defaults alone: the check comes first."""
    reference = built("factory", "fp32")
    request = CheckRequest(
        candidate=str(candidate), against=str(reference), samples=str(reference.with_suffix(".calib"))
    )
    context = Context(cache=StageCache(None))
    result = check_files(context, request)
    return result, locate_files(context, request, result)


def located(built: Built, candidate: Path) -> Located:
    return checked_and_located(built, candidate)[1]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", PLACED)
def test_a_planted_fault_fails_and_its_module_is_named(built: Built, tmp_path: Path, name: str, precision: str) -> None:
    plant, where, module = PLACED[name]
    candidate = tmp_path / "candidate.onnx"
    onnx.save(plant(onnx.load(str(built("factory", precision))), *where), str(candidate))

    result, found = checked_and_located(built, candidate)

    assert result.verdict == "fail"
    assert told(result) != []
    assert found.first is not None
    assert found.first.module == module


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_norm_that_was_in_training_mode_is_named(built: Built, precision: str) -> None:
    found = located(built, built("batch_statistics", precision))

    assert found.first is not None
    # The norm was folded into the convolution before it, which is then a part of the norm.
    assert found.first.module in {"image.blocks.1.norm", "image.blocks.1.first"}


def test_a_wrong_scale_is_named_where_a_shift_was_moved_over_the_layer(built: Built, tmp_path: Path) -> None:
    graph = Graph(onnx.load(str(built("factory", "int8"))))
    quantize = next(node for node in graph.nodes if node.name == "layer_norm_1.shift.out.q")
    graph.write(quantize.input[1], graph.read(quantize.input[1]) / 20)
    candidate = tmp_path / "candidate.onnx"
    onnx.save(graph.proto, str(candidate))

    found = located(built, candidate)

    assert found.first is not None
    assert (found.first.op, found.first.node) == ("QuantizeLinear", quantize.name)
    assert [layer.module for layer in found.layers if layer.verdict == "bad"] == ["text.layers.0.hidden"]


def test_nothing_is_named_in_a_correct_build(built: Built) -> None:
    for precision in PRECISIONS:
        assert located(built, built("factory", precision)).first is None
