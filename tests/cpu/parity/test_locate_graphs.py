"""A fault that is planted in a graph is found in its module: by itself wrong, what follows inherited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import planting
import pytest

from mmtrt.artifacts import StageCache
from mmtrt.onnx_files import load_model
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.locating import locate_files
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.results import Located
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import open_set

FAULTS = {
    "a transposed weight": (planting.transposed("query", "MatMul"), "query", "MatMul"),
    "rows of a table moved": (planting.rows_moved("words.weight"), "words", "Gather"),
    "a convolution's bias lost": (planting.bias_lost("block"), "block", "Conv"),
    "a Gemm's bias lost": (planting.bias_lost("hidden"), "hidden", "Gemm"),
    "a MatMul's bias gone": (planting.bias_lost("value"), "value", "Add"),
    "a residual dropped": (planting.residual_dropped, "", "Add"),
    "BatchNormalization in training mode": (
        planting.normalised_in_training_mode("block"),
        "block",
        "BatchNormalization",
    ),
    "dropout left on": (planting.dropout_left_on("norm", "LayerNormalization"), "dropout", "Dropout"),
    "an overflow in FP16": (planting.overflow("norm"), "norm", "Mul"),
}


@pytest.fixture(scope="module")
def int8(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("int8") / "tiny.int8.onnx"
    return convert(tiny, target, PrecisionOptions(precision="int8"), samples=open_set(calibration(tiny))).onnx


def calibration(tiny: Path) -> str:
    return str(tiny.with_name("tiny.calib"))


def located(candidate: Path, tiny: Path, reduce: Path | None = None) -> Located:
    request = CheckRequest(
        candidate=str(candidate), against=str(tiny), samples=calibration(tiny), stress=(), reduce=reduce
    )
    return locate_files(Context(cache=StageCache(None)), request)


@pytest.mark.parametrize("name", FAULTS)
def test_the_module_is_named_and_reduced_to_what_still_fails(name: str, tiny: Path, tmp_path: Path) -> None:
    fault, module, op = FAULTS[name]
    found = located(planting.planted(tiny, tmp_path, fault), tiny, tmp_path / "small.onnx")
    assert found.first is not None
    assert (found.first.module, found.first.op, found.first.verdict) == (module, op, "bad")
    assert found.first in found.layers
    assert Located.from_json(found.to_json()) == found
    _still_fails(tmp_path / "small.onnx", tmp_path / "small.npz")


def _still_fails(small: Path, arrays: Path) -> None:
    model = load_model(small)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) <= 8
    given = dict(np.load(arrays))
    name = model.graph.output[0].name
    expected = given.pop(f"output.{name}")
    with OrtRunner(small, "parity") as runner:
        got = runner.infer(given)[name]
    assert got.shape == expected.shape
    assert not np.linalg.norm(got.astype(np.float64) - expected) < 0.1 * np.linalg.norm(expected)


def test_an_equal_graph_has_no_bad_layer_and_nothing_to_reduce(tiny: Path, tmp_path: Path) -> None:
    candidate = planting.planted(tiny, tmp_path, lambda _: None)
    found = located(candidate, tiny, tmp_path / "small.onnx")
    assert (found.first, {layer.verdict for layer in found.layers}) == (None, {"clean"})
    assert all(layer.sqnr_db is None for layer in found.layers)
    assert not (tmp_path / "small.onnx").exists()


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_right_conversion_has_no_bad_layer(precision: str, tiny: Path, tmp_path: Path) -> None:
    options = PrecisionOptions(precision=precision)
    made = convert(tiny, tmp_path / "made.onnx", options, samples=open_set(calibration(tiny)))
    found = located(made.onnx, tiny)
    assert (found.first, {layer.verdict for layer in found.layers}) == (None, {"clean"})
    assert {"stem", "words", "query", "hidden", "answer"} <= {layer.module for layer in found.layers}


@pytest.mark.parametrize("module", ["block", "query", "hidden"])
def test_a_wrong_scale_in_int8_is_named_with_the_layer_that_reads_it(
    module: str, int8: Path, tiny: Path, tmp_path: Path
) -> None:
    found = located(planting.planted(int8, tmp_path, planting.scale_times(0.1, module)), tiny)
    assert found.first is not None
    assert (found.first.module, found.first.op) == (module, "QuantizeLinear")


def test_a_bias_lost_in_int8_is_the_only_bad_layer(int8: Path, tiny: Path, tmp_path: Path) -> None:
    found = located(planting.planted(int8, tmp_path, planting.bias_lost("hidden")), tiny)
    assert [layer.module for layer in found.layers if layer.verdict == "bad"] == ["hidden"]


def test_what_follows_a_bad_layer_is_inherited_and_what_precedes_it_is_clean(tiny: Path, tmp_path: Path) -> None:
    found = located(planting.planted(tiny, tmp_path, planting.bias_lost("hidden")), tiny)
    verdicts = {layer.module: layer.verdict for layer in found.layers}
    assert (verdicts["hidden"], verdicts["answer"], verdicts["match"]) == ("bad", "inherited", "inherited")
    assert {verdicts[module] for module in ("stem", "block", "words", "norm", "query", "value")} == {"clean"}
    answer = next(layer for layer in found.layers if layer.module == "answer")
    assert answer.sqnr_db is not None
    assert answer.sqnr_db < 30
    assert answer.own_sqnr_db is None or answer.own_sqnr_db > 100


def test_each_of_two_faults_is_bad(tiny: Path, tmp_path: Path) -> None:
    def both(model: onnx.ModelProto) -> None:
        planting.rows_moved("words.weight")(model)
        planting.bias_lost("hidden")(model)

    found = located(planting.planted(tiny, tmp_path, both), tiny)
    assert [layer.module for layer in found.layers if layer.verdict == "bad"] == ["words", "hidden"]


def test_where_the_check_passed_no_layer_is_called_bad(tiny: Path, tmp_path: Path) -> None:
    request = CheckRequest(candidate=str(tiny), against=str(tiny), samples=calibration(tiny), stress=())
    context = Context(cache=StageCache(None))
    passed = check_files(context, request)
    candidate = planting.planted(tiny, tmp_path, planting.bias_lost("hidden"))
    found = locate_files(context, replace(request, candidate=str(candidate)), passed)
    assert (found.first, {layer.verdict for layer in found.layers}) == (None, {"clean"})


def test_values_that_are_not_finite_are_told_as_such(tiny: Path, tmp_path: Path) -> None:
    found = located(planting.planted(tiny, tmp_path, planting.overflow("norm")), tiny)
    assert found.first is not None
    assert found.first.non_finite > 0
    assert found.first.own_sqnr_db == -300
