"""A file of ranges that sets are added to: A and then B is calibrating on both."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from converting import normal, sample_set

from mmtrt.errors import InputError
from mmtrt.onnx_files import load_model
from mmtrt.precision.convert import convert
from mmtrt.precision.converted import Converted
from mmtrt.precision.options import PrecisionOptions
from mmtrt.tensors import Array

OPTIONS = PrecisionOptions(precision="int8", coverage="full")
SAMPLES = normal((3, 12, 12), 150, seed=5)


def calibrated(folder: Path, samples: list[dict[str, Array]], **more: Path) -> tuple[Converted, onnx.ModelProto]:
    source = folder / "m.onnx"
    if not source.exists():
        graphs.saved(graphs.residual_cnn(np.random.default_rng(0)), source)
    made = convert(source, folder / "out.onnx", OPTIONS, samples=sample_set(samples), **more)
    written = load_model(made.onnx)
    del written.metadata_props[:]
    return made, written


@pytest.mark.parametrize("at", [1, 40, 149])
def test_a_and_then_b_is_both(tmp_path: Path, at: int) -> None:
    ranges = tmp_path / "r.npz"
    calibrated(tmp_path, SAMPLES[:at], ranges_out=ranges)
    made, parts = calibrated(tmp_path, SAMPLES[at:], ranges_file=ranges, ranges_out=ranges)
    whole, both = calibrated(tmp_path, SAMPLES)
    assert made.calibration is not None
    assert whole.calibration is not None
    assert made.calibration.samples == whole.calibration.samples == len(SAMPLES)
    assert parts == both


def test_a_set_that_is_there_is_not_run_again(tmp_path: Path) -> None:
    ranges = tmp_path / "r.npz"
    _, first = calibrated(tmp_path, SAMPLES[:40], ranges_out=ranges)
    made, second = calibrated(tmp_path, SAMPLES[:40], ranges_file=ranges, ranges_out=ranges)
    assert made.calibration is not None
    assert made.calibration.samples == 40
    assert any("nothing was run" in text for text in made.notes)
    assert first == second


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    ranges = tmp_path / "r.npz"
    calibrated(tmp_path, SAMPLES[:40], ranges_out=ranges)
    before = ranges.read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    graphs.saved(graphs.residual_cnn(np.random.default_rng(1)), other / "m.onnx")
    with pytest.raises(InputError, match="of another model"):
        calibrated(other, SAMPLES[40:80], ranges_file=ranges, ranges_out=ranges)
    wide = PrecisionOptions(precision="int8", keep=("c1_Conv",))
    with pytest.raises(InputError, match="another choice of layers"):
        convert(tmp_path / "m.onnx", tmp_path / "o.onnx", wide, samples=sample_set(SAMPLES[40:80]), ranges_file=ranges)
    assert ranges.read_bytes() == before
    for text in (b"", b"PK", before[: len(before) // 2]):
        ranges.write_bytes(text)
        with pytest.raises(InputError, match="can be read"):
            calibrated(tmp_path, SAMPLES[40:80], ranges_file=ranges)
