"""The models in which faults are planted, and those that are correct: exported and converted once, and kept."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mmtrt.artifacts import StageCache
from mmtrt.isolation import run_isolated
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.reached import tell_reached
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.samples import open_set

__all__ = ["FAMILIES", "LIMIT_S", "MODELS", "built", "samples_of"]

LIMIT_S = 900.0
MODELS = ("vqa-coattention", "vqa-early", "vqa-knowledge", "retrieval", "recommend", "medical", "audio-text", "video")
"""Those of the zoo in which faults are drawn."""
FAMILIES = ("clip", "siglip", "vilt", "lxmert", "flava", "clap", "blip-matching", "owl-vit", "layoutlmv3", "group-vit")


def work_folder() -> Path:
    """Return where exports and builds are kept from run to run."""
    return (StageCache.default().root or Path(tempfile.gettempdir())) / "benchmark-faults"


def exported(name: str) -> Path:
    """Return the FP32 ONNX of a model of the zoo, or of a tiny one of transformers; its samples lie beside it."""
    from mmtrt.export.exporter import ExportOptions
    from mmtrt.export.sources import load_source
    from mmtrt.pipeline.exporting import export_stage, publish_export

    path = work_folder() / f"{name}.onnx"
    if not path.is_file():
        reference = f"zoo:{name}"
        if name in FAMILIES:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
            import tiny_hf

            folder = work_folder() / "hf" / name
            folder.mkdir(parents=True, exist_ok=True)
            tiny_hf.make(name, folder)
            reference = f"hf:{folder}"
        made = export_stage(Context(), load_source(reference), ExportOptions(calibration_samples=256))
        publish_export(made, work_folder(), name)
    return path


def built(name: str, precision: str) -> Path:
    """Return a model's ONNX in a precision, as `mmtrt build` converts it; the engine is not built."""
    source = work_folder() / f"{name}.onnx"
    if not source.is_file():
        run_isolated(exported, name, what=f"the export of {name}", time_limit_s=LIMIT_S)
    if precision == "fp32":
        return source
    target = work_folder() / f"{name}.{precision}.onnx"
    if not target.is_file():
        convert(source, target, PrecisionOptions(precision=precision), samples=samples_of(source))
        tell_reached(Context(), source, target, open_set(samples_of(source)), precision=precision)
    return target


def samples_of(source: Path) -> str:
    """Return the calibration samples that lie beside an FP32 ONNX."""
    return str(source.with_suffix(".calib"))
