"""The test model `planted_fusion`, correct and with a fault in a module, in each precision: made once a session."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault_planting import Built, Judged

from mmtrt.artifacts import StageCache
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.results import CheckResult

SAMPLES = 40


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Built:
    """Give the ONNX of a source of `planted_fusion` in a precision; calibration samples lie beside the FP32 one."""
    from mmtrt.export.exporter import ExportOptions
    from mmtrt.export.sources import load_source
    from mmtrt.pipeline.exporting import export_stage, publish_export
    from mmtrt.pipeline.reached import tell_reached
    from mmtrt.precision.convert import convert
    from mmtrt.precision.options import PrecisionOptions
    from mmtrt.samples import open_set

    folder = tmp_path_factory.mktemp("planted")
    context = Context(cache=StageCache(shared_cache))

    def build(source: str, precision: str) -> Path:
        plain = folder / f"{source}.onnx"
        if not plain.is_file():
            made = export_stage(
                context, load_source(f"planted_fusion:{source}"), ExportOptions(calibration_samples=SAMPLES)
            )
            publish_export(made, folder, source)
        if precision == "fp32":
            return plain
        target = folder / f"{source}.{precision}.onnx"
        if not target.is_file():
            convert(plain, target, PrecisionOptions(precision=precision), samples=str(folder / f"{source}.calib"))
            tell_reached(context, plain, target, open_set(str(folder / f"{source}.calib")), precision=precision)
        return target

    return build


@pytest.fixture
def judge(built: Built, tmp_path: Path) -> Judged:
    """Check a graph, a file or a source against the correct FP32 model: the gate as it is without any option."""
    reference = built("factory", "fp32")

    def check(candidate: onnx.ModelProto | Path | str) -> CheckResult:
        if isinstance(candidate, onnx.ModelProto):
            onnx.save(candidate, str(tmp_path / "candidate.onnx"))
            candidate = tmp_path / "candidate.onnx"
        request = CheckRequest(
            candidate=str(candidate), against=str(reference), samples=str(reference.with_suffix(".calib"))
        )
        return check_files(Context(cache=StageCache(None)), request)

    return check
