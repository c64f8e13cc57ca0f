"""Where the weights of the zoo are looked for: beside the code, else in the installed package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmtrt.errors import InputError
from mmtrt.zoo import TRAINED, checkpoints


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mmtrt as a wheel puts it: no source tree around it, and no weights."""
    site = tmp_path / "site-packages"
    monkeypatch.setattr(checkpoints, "__file__", str(site / "mmtrt" / "zoo" / "checkpoints.py"))
    monkeypatch.setitem(sys.modules, "mmtrt_zoo", None)
    return site


def test_a_source_tree_has_the_weights_and_the_card_of_each_trained_model() -> None:
    folder = checkpoints.weights_package()

    assert folder.parts[-4:] == ("packages", "mmtrt-zoo", "src", "mmtrt_zoo")
    for kind, ending in (("checkpoints", "safetensors"), ("cards", "json"), ("cards", "md")):
        assert {p.stem for p in (folder / kind).glob(f"*.{ending}")} == set(TRAINED)


def test_without_the_package_the_error_says_what_to_install(installed: Path) -> None:
    with pytest.raises(InputError, match="not installed: no package mmtrt_zoo") as caught:
        checkpoints.checkpoint_path("bev")

    assert caught.value.fix == "Install them: pip install 'mmtrt[zoo]'"


def test_the_installed_package_is_found(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = installed / "mmtrt_zoo"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "mmtrt_zoo")
    monkeypatch.syspath_prepend(str(installed))

    assert checkpoints.checkpoint_path("bev") == package / "checkpoints" / "bev.safetensors"
