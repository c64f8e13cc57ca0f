"""The picture of an error's growth is drawn whatever a model's names look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrt.report.growth import growth_picture
from mmtrt.results import LayerError, Located


def test_dollars_in_names_are_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    named = {"module": "a$\\frac{$.b", "source": "", "tensor": "t"}
    layer = LayerError(node="n", op="Add", sqnr_db=1.0, own_sqnr_db=1.0, verdict="bad", **named)
    found = Located(first=layer, layers=(layer,), candidate="model$\\frac{$.onnx")

    growth_picture(found, tmp_path / "growth.svg")

    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")
