"""No false alarm: what `mmtrt build` makes of correct models passes the gate, whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mmtrt.artifacts import StageCache
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.sources import load_source
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import export_stage, publish_export
from mmtrt.pipeline.reached import tell_reached
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.samples import open_set

SOURCES = ("tiny_fusion:factory", "two_towers:factory", "kinds:masked", "kinds:bags", "zoo:recommend")
FAMILIES = ("clip", "vilt")

Alarms = Callable[[str], list[str]]


@pytest.fixture
def false_alarms(tmp_path: Path, shared_cache: Path) -> Alarms:
    """Build a source in FP16 and INT8, check each against its FP32 ONNX, and tell what is out of budget."""

    def build(source: str) -> list[str]:
        context = Context(cache=StageCache(shared_cache))
        made = export_stage(context, load_source(source), ExportOptions(calibration_samples=64))
        reference = publish_export(made, tmp_path, "model").onnx
        samples, over = str(reference.with_suffix(".calib")), []
        for precision in ("fp16", "int8"):
            candidate = tmp_path / f"model.{precision}.onnx"
            convert(reference, candidate, PrecisionOptions(precision=precision), samples=samples)
            tell_reached(context, reference, candidate, open_set(samples), precision=precision)
            request = CheckRequest(candidate=str(candidate), against=str(reference), samples=samples)
            result = check_files(context, request)
            over += [f"{precision} {name}: {output.why}" for name, output in result.outputs.items() if output.why]
            over += [f"{precision} {case.kind} {case.name}" for case in result.stress if case.verdict == "fail"]
            assert result.verdict in {"pass", "fail"}
        return over

    return build


@pytest.mark.parametrize("source", SOURCES)
def test_a_correct_build_passes(false_alarms: Alarms, source: str) -> None:
    assert false_alarms(source) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_correct_build_of_a_family_passes(false_alarms: Alarms, tmp_path: Path, family: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    import tiny_hf

    (tmp_path / family).mkdir()
    assert false_alarms(f"hf:{tiny_hf.make(family, tmp_path / family)}") == []
