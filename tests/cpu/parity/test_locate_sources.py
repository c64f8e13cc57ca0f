"""Against a PyTorch source: the candidate was exported from a module that is another one than it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrt.artifacts import StageCache
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.sources import load_source
from mmtrt.parity.stress import KINDS
from mmtrt.pipeline.checking import CheckRequest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import export_stage
from mmtrt.pipeline.locating import locate_files
from mmtrt.results import Located


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(cache=StageCache(tmp_path_factory.mktemp("cache")))


def located(context: Context, tiny: Path, factory: str, stress: tuple[str, ...] = ()) -> Located:
    options = ExportOptions(calibration_samples=2)
    candidate = export_stage(context, load_source(f"faulty_fusion:{factory}"), options).onnx
    request = CheckRequest(
        candidate=str(candidate),
        against="tiny_fusion:factory",
        samples=str(tiny.with_name("tiny.calib")),
        count=8,
        stress=stress,
    )
    return locate_files(context, request)


@pytest.mark.parametrize(
    ("factory", "module", "node", "note"),
    [
        ("no_residual", "", "node_add_15", "the candidate lacks it"),
        ("no_bias", "value", "node_linear_4", "the candidate lacks it"),
        ("other_weights", "stem", "node_conv2d", ""),
        ("swapped", "key", "node_MatMul_21", ""),
    ],
)
def test_the_first_module_that_differs_is_named(
    context: Context, tiny: Path, factory: str, module: str, node: str, note: str
) -> None:
    found = located(context, tiny, factory)
    assert found.first is not None
    assert (found.first.module, found.first.node, found.first.note) == (module, node, note)
    assert found.first.source.startswith("models/tiny_fusion.py:")
    assert found.reference == "tiny_fusion:factory"


def test_a_node_of_the_model_itself_is_no_module_s(context: Context, tiny: Path) -> None:
    found = located(context, tiny, "more_residual")
    assert found.first is not None
    assert (found.first.module, found.first.op, found.first.note) == ("", "Add", "the reference has no such node")
    assert found.first.source.startswith("parity/faulty_fusion.py:")


def test_a_mask_that_is_missing_shows_in_the_hard_case_that_failed(context: Context, tiny: Path) -> None:
    assert located(context, tiny, "no_mask").first is None
    found = located(context, tiny, "no_mask", KINDS)
    assert found.case == "masked: text"
    assert found.first is not None
    assert found.first.source.startswith("parity/faulty_fusion.py:")
    assert found.first.op == "Mul"
