"""From a folder to engines: the export says what PyTorch says, and TensorRT-RTX builds it in FP16 and INT8."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from refusals import Cli

from mmtrt.export.exporter import Exported, ExportOptions, export_model
from mmtrt.export.sources import load_source

Saved = Callable[[str], Path]


def exported(folder: Path, out: Path) -> Exported:
    return export_model(load_source(f"hf:{folder}"), out, ExportOptions(calibration_samples=40))


def test_clip_goes_the_whole_way_by_command_line(cli: Cli, saved: Saved) -> None:
    """Its text encoder is causal: TensorRT-RTX crashed on the guard that FP16's masks have."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    told = cli("export", f"hf:{saved('clip')}", "-o", "out", "--json", "-q")
    assert told.code == 0, told.err
    rows = json.loads(told.out)["verified"]
    assert [row["sizes"]["text"] for row in rows if not row["masked"]] == [16, 2, 24]
    for precision in ("fp16", "int8"):
        built = cli("build", "out/clip.onnx", f"--{precision}", "--coverage", "wide", "--json", "-q")
        assert built.code == 0, built.err
        assert json.loads(built.out)["engine_bytes"] > 0
    told_of_int8 = json.loads(built.out)
    assert told_of_int8["int8"]["mac_share"] > 0.8
    # Its samples are drawn from the configuration, and everything made of them says so.
    assert told_of_int8["calibration"]["on_data"] is False
    assert any("not on data" in note for note in told_of_int8["notes"])


def test_the_general_way_is_verified_too(saved: Saved, tmp_path: Path) -> None:
    made = exported(saved("layoutlmv3"), tmp_path)
    assert {tensor.name for tensor in made.spec.inputs} >= {"input_ids", "bbox", "pixel_values"}
    assert all(worst < 1e-4 for row in made.verified for worst in row.max_abs.values())
    assert made.spec.limits["input_ids"] == (0, 63)


def test_prompts_of_a_segmentation_keep_a_dynamic_batch(saved: Saved, tmp_path: Path) -> None:
    made = exported(saved("clipseg"), tmp_path)
    assert [row.sizes["batch"] for row in made.verified if not row.masked] == [2, 1, 8]
    assert made.spec.outputs[0].shape == ("batch", 32, 32)
