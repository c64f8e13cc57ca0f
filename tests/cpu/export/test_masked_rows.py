"""A row that sees nothing, a missing modality, comes out of the graph as it does of PyTorch."""

from __future__ import annotations

import kinds
import mended
import numpy as np
import pytest

from mmtrt.export.exporter import Exported
from mmtrt.runtimes.eager import EagerRunner

SHAPES = ((2, 5), (1, 2), (4, 12))
SOURCE = mended.source(kinds.masked())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return mended.export(SOURCE, tmp_path_factory.mktemp("masked"))


def test_they_agree_with_pytorch_at_any_shape_and_mask(made: Exported) -> None:
    # One by one: PyTorch leaves its fused attention for all of a module where it fails in a part of it.
    kinds_alone = [EagerRunner(kind, SOURCE.inputs) for kind in SOURCE.module.kinds]
    for feed in (feed for shape in SHAPES for feed in mended.texts(*shape)):
        for eager, got in zip(kinds_alone, mended.run(made.onnx, feed), strict=True):
            (told,) = eager.infer(feed).values()
            mended.assert_close(told, got)


def test_what_was_mended_is_told(made: Exported) -> None:
    assert made.applied == ("patch encoders", "patch layouts", "translation attention")


@pytest.mark.parametrize(("precision", "loss"), [("fp16", 0.01), ("int8", 0.1)])
def test_they_keep_their_meaning_in_less_precision_and_build(made: Exported, precision: str, loss: float) -> None:
    onnx = mended.converted(made, precision)
    for feed in mended.texts(2, 5):
        for kind, told, got in zip(kinds.MASKED, mended.run(made.onnx, feed), mended.run(onnx, feed), strict=True):
            assert np.abs(told - got).max() <= loss * np.abs(told).max(), kind.__name__
    assert mended.build(onnx, made.spec.dynamic_profile()).stat().st_size > 0
