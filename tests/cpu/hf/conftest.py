"""Tiny models of transformers in folders of their own, each saved once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

Saved = Callable[[str], Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Give the folder of a tiny model by its name in `tiny_hf`; not to be changed."""
    import tiny_hf

    root = tmp_path_factory.mktemp("hf")

    def folder(name: str) -> Path:
        place = root / name
        if not place.is_dir():
            place.mkdir()
            tiny_hf.make(name, place)
        return place

    return folder


@pytest.fixture
def copied(saved: Saved, tmp_path: Path) -> Saved:
    """Give a copy of such a folder, to be changed."""
    import shutil

    return lambda name: Path(shutil.copytree(saved(name), tmp_path / name))
