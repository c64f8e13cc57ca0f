"""`mmtrt bundle`: a real bundle of a small model."""

from __future__ import annotations

from pathlib import Path

from mmtrt.bundle.opening import verify


def test_it_carries_what_a_device_needs(tiny_bundle: Path) -> None:
    opened = verify(tiny_bundle)
    manifest = opened.manifest
    assert (manifest.name, manifest.version) == ("tiny", "1.2.0")
    assert manifest.models.keys() == {"fp32", "int8"}
    assert manifest.models["int8"].budget == {"sqnr_db": 15.0}
    assert manifest.models["int8"].measured["verdict"] == "pass"
    assert manifest.targets.keys() == {"any-rtx", "orin-nano"}
    assert sum(name.endswith(".npz") for name in manifest.files) == 4
