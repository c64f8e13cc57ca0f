"""What `mmtrt inspect` tells of a bundle that was verified, whoever made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzz_base import contents, manifest_of, packed

from mmtrt.errors import InputError
from mmtrt.pipeline.bundle_facts import bundle_facts_view, inspect_bundle
from mmtrt.pipeline.bundle_place import check_place, is_bundle

SPEC = {
    "inputs": [{"name": "ids", "dtype": "int64", "shape": ["batch", 12]}],
    "outputs": [{"name": "answer", "dtype": "float32", "shape": ["batch", 5]}],
    "source": "zoo:vqa",
}


def made(folder: Path, **changed: Any) -> Path:
    files = contents()
    return packed(folder / "vqa.mmtrt", files, manifest_of(files, **{"spec": SPEC, **changed}))


def test_facts_are_those_of_the_manifest(tmp_path: Path) -> None:
    rows = bundle_facts_view(inspect_bundle(made(tmp_path, plugins=["libodd.so"])))
    assert rows["version"] == "vqa 1.2.0, made by mmtrt 0.1.0"
    assert rows["signature"] == "none"
    assert rows["source"] == "zoo:vqa"
    assert "ids" in rows["inputs"]
    assert "answer" in rows["outputs"]
    assert rows["target any-rtx"].startswith("int8; engine of tensorrt-rtx 1.7.1.116 for all GPUs")
    assert rows["golden"].startswith("2 samples")
    assert (rows["preprocessing"], rows["labels"], rows["plugins"]) == ("preprocessing.json", "answer", "libodd.so")
    assert rows["timing caches"] == "1.7.1.116 on NVIDIA L4"


def test_a_text_moves_no_cursor(tmp_path: Path) -> None:
    rows = bundle_facts_view(inspect_bundle(made(tmp_path, spec={**SPEC, "source": "zoo:\nvqa\t\u202e"})))
    assert rows["source"] == "zoo:?vqa??"


@pytest.mark.parametrize(
    "changed",
    [
        {"spec": {}},
        {"spec": {**SPEC, "inputs": 5}},
        {"spec": {**SPEC, "ranges": {"batch": [1]}}},
        {"spec": {**SPEC, "source": 5}},
    ],
)
def test_what_the_format_leaves_open_may_be_anything(tmp_path: Path, changed: dict[str, Any]) -> None:
    found = inspect_bundle(made(tmp_path, **changed))
    assert found["manifest"]["spec"] == changed["spec"]
    with pytest.raises(InputError, match="can't be shown"):
        bundle_facts_view(found)


def test_a_bundle_is_told_by_its_beginning(bundle: Path, tmp_path: Path) -> None:
    assert is_bundle(bundle)
    assert check_place(str(bundle)).tar is bundle.is_file()
    (tmp_path / "other.mmtrt").write_bytes(b"bundle.sha256")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "other.mmtrt", tmp_path / "folder", tmp_path / "gone"):
        assert not is_bundle(path)
