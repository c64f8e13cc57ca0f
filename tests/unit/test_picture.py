"""A picture of what layers lose."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmtrt.errors import UsageError
from mmtrt.report.picture import check_picture, sensitivity_picture


def row(module: str, branch: str, *db: float | None) -> dict[str, object]:
    return {"module": module, "branch": branch, "mac_share": 0.1, "sqnr_db": dict(zip("ab", db, strict=True))}


FOUND = {
    "branches": [row("image", "image", 30.0, 40.0), row("text", "text", 50.0, None)],
    "layers": [row(f"image.{i}", "image", 20.0 + i, None) for i in range(40)] + [row("text.0", "text", None, None)],
}


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"s{suffix}"
    sensitivity_picture(FOUND, path)
    assert path.read_bytes().startswith(start)


def test_layers_are_named_and_those_left_out_are_told(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").rcParams["svg.fonttype"] = "none"
    sensitivity_picture(FOUND, tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text(encoding="utf-8")
    assert "image.7  10.0 %" in text
    assert "the 30 most sensitive of 41" in text
    assert "image.35" not in text


def test_a_suffix_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.txt"):
        check_picture(tmp_path / "s.txt")
