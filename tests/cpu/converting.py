"""Converts small graphs and says what that costs in decibels: for the tests of precision."""

from __future__ import annotations

import hashlib
from pathlib import Path

import graphs
import numpy as np
import onnx
from onnx import numpy_helper

from mmtrt.metrics import Comparison
from mmtrt.precision.convert import convert
from mmtrt.precision.converted import Converted
from mmtrt.precision.options import PrecisionOptions
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import SampleSet
from mmtrt.tensors import Array

SHAPES = {"mlp": (8,), "residual_cnn": (3, 12, 12)}


def sample_set(samples: list[dict[str, Array]]) -> SampleSet:
    digest = hashlib.sha256(b"".join(array.tobytes() for one in samples for array in one.values())).hexdigest()
    return SampleSet(source="test", key=digest, read=lambda: samples)


def normal(shape: tuple[int, ...], count: int = 40, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def texts(width: int = 8, count: int = 40) -> list[dict[str, Array]]:
    """Ragged; every fifth is wholly masked, every third in part."""
    rng = np.random.default_rng(1)
    made = []
    for index in range(count):
        length = int(rng.integers(2, 7))
        mask = np.ones(length, dtype=np.int64)
        if index % 5 == 0:
            mask[:] = 0
        elif index % 3 == 0:
            mask[-1] = 0
        made.append({"x": rng.standard_normal((length, width)).astype(np.float32), "mask": mask})
    return made


def run(path: Path, feeds: dict[str, Array]) -> dict[str, Array]:
    with OrtRunner(path, "parity") as runner:
        return runner.infer(feeds)


def made(proto: onnx.ModelProto, folder: Path, samples: list[dict[str, Array]], **options: object) -> Converted:
    source = graphs.saved(proto, folder / "model.onnx")
    wanted = PrecisionOptions(**options)  # type: ignore[arg-type]
    return convert(source, folder / f"model.{wanted.precision}.onnx", wanted, samples=sample_set(samples))


def sqnr(folder: Path, converted: Converted, samples: list[dict[str, Array]]) -> float:
    """Over all samples and outputs, against the FP32 graph."""
    comparison = Comparison()
    with OrtRunner(folder / "model.onnx", "parity") as truth, OrtRunner(converted.onnx, "parity") as candidate:
        for sample in samples:
            feeds = {name: array[None] for name, array in sample.items()}
            for told, got in zip(truth.infer(feeds).values(), candidate.infer(feeds).values(), strict=True):
                comparison.add(told, got)
    assert comparison.non_finite == 0
    return comparison.sqnr_db


def constants_of(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
