"""Classes of transformers that could not be exported or built: agreement at three shapes and without text, engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mended
import pretrained
import pytest

from mmtrt.export.shapes import resize
from mmtrt.export.sources import Source
from mmtrt.tensors import Array


def feeds(source: Source, *, masked: bool) -> Iterator[dict[str, Array]]:
    for batch, length in ((2, 5), (1, 2), (3, 12)):
        feed = resize(source, {"batch": batch, "text": length})
        yield feed
        if masked:
            mask = feed["attention_mask"].copy()
            mask[0] = 0
            yield {**feed, "attention_mask": mask}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "applied", "masked"),
    [
        ("vilt", "patch grids", True),
        ("align", "pass pooling", True),
        ("blip_2", "patch padding", True),
        ("owlvit", "pass einsum", True),
        # Without text its boxes are NaN in PyTorch too.
        ("grounding_dino", "translation search", False),
    ],
)
def test_it_goes_the_whole_way(name: str, applied: str, masked: bool, tmp_path: Path) -> None:
    source = mended.source(getattr(pretrained, name)())
    made = mended.export(source, tmp_path)
    assert applied in made.applied
    mended.assert_agrees(source, made.onnx, feeds(source, masked=masked))
    # Beside its INT8 layers it is FP16.
    assert mended.build(mended.converted(made, "int8"), made.spec.dynamic_profile()).is_file()
