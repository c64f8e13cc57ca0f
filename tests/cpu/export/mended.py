"""A module goes the whole way to engines, and is held against eager PyTorch: for the tests of what export mends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.export.exporter import Exported, ExportOptions, export_model
from mmtrt.export.shapes import Ranges, settle_ranges
from mmtrt.export.sources import Source
from mmtrt.export.tidy import tidy
from mmtrt.export.tracing import OPSET, trace
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.tensors import Array, ModelSpec, ShapeRange

TOLERANCE = 1e-4


def source(made: tuple[Any, ...]) -> Source:
    """A source of what a factory returns."""
    module, inputs, axes, extra = made
    return Source(
        reference="kinds:made",
        name="made",
        module=module,
        examples={name: tensor.numpy() for name, tensor in inputs.items()},
        axes=axes,
        modalities={},
        outputs=extra.get("outputs"),
        ranges={name: tuple(span) for name, span in extra.get("ranges", {}).items()},
        samples=extra.get("samples"),
    )


def export(given: Source, folder: Path) -> Exported:
    """Verified at the traced, the smallest and the largest shape."""
    return export_model(given, folder, ExportOptions(calibration_samples=12))


def traced(given: Source, folder: Path) -> tuple[Path, Ranges]:
    """Of a source whose inputs have no common batch axis, so that it has no samples: the graph alone."""
    ranges = settle_ranges(given, {}, str)
    model, ranges = trace(given, ranges, folder, opset=OPSET, warn=str)
    tidy(model, given)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(folder / "made.onnx"))
    return folder / "made.onnx", ranges


def profile(given: Source, ranges: Ranges) -> dict[str, ShapeRange]:
    spec = ModelSpec(inputs=given.inputs, outputs=(), modalities={}, ranges=ranges, source="", digest="", versions={})
    return spec.dynamic_profile()


def assert_agrees(given: Source, path: Path, feeds: Iterable[dict[str, Array]]) -> None:
    """Each output as in eager PyTorch."""
    eager = EagerRunner(given.module, given.inputs)
    with OrtRunner(path, "parity") as graph:
        taken = {tensor.name for tensor in graph.inputs}
        for feed in feeds:
            wanted = eager.infer(feed).values()
            got = graph.infer({name: array for name, array in feed.items() if name in taken}).values()
            for told, array in zip(wanted, got, strict=True):
                assert_close(told, array)


def assert_close(told: Array, got: Array) -> None:
    """To 1e-4 of the largest value; a logit of -inf, which hides a place, stands where PyTorch has it."""
    assert told.shape == got.shape
    assert not np.isnan(told).any()
    hidden = np.isneginf(told)
    assert (np.isneginf(got) == hidden).all()
    told, got = told[~hidden], got[~hidden]
    assert np.abs(told - got).max(initial=0) <= TOLERANCE * max(1.0, np.abs(told).max(initial=0))


def converted(made: Exported, precision: str) -> Path:
    target = made.onnx.with_name(f"made.{precision}.onnx")
    convert(made.onnx, target, PrecisionOptions(precision=precision, refine=()), samples=str(made.calibration))
    return target


def build(path: Path, shapes: dict[str, ShapeRange]) -> Path:
    """By TensorRT-RTX, which needs no GPU for it."""
    options = BuildOptions(flavor="tensorrt-rtx")
    return build_engine(path, path.with_suffix(".engine"), profile=shapes, options=options).engine


def texts(batch: int, length: int, width: int = 8) -> Iterable[dict[str, Array]]:
    """All tokens seen; half of a row; one row wholly masked; all; a hole in the middle."""
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, length, width)).astype(np.float32)
    for rows, hidden in ((0, slice(0)), (0, slice(length // 2, None)), (0, slice(None)), (slice(None), slice(None))):
        mask = np.ones((batch, length), dtype=np.int64)
        mask[rows, hidden] = 0
        yield {"x": x, "mask": mask}
    mask = np.ones((batch, length), dtype=np.int64)
    mask[0, length // 2] = 0
    yield {"x": x, "mask": mask}


def run(path: Path, feed: dict[str, Array]) -> list[Array]:
    with OrtRunner(path, "parity") as graph:
        return list(graph.infer(feed).values())
