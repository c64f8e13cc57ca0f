"""Patches last as long as the tracing does, and leave the user's module and PyTorch as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kinds
import mended
import pytest
import torch
from torch import nn
from torch.nn import functional

from mmtrt.errors import ModelError
from mmtrt.export import patches
from mmtrt.export.patches import patched
from mmtrt.export.patches.replacing import replaced


class Doomed(nn.Module):
    """Of patched kinds throughout, and no graph can be made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = kinds.PackingEncoder()

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, mask) if bool(x.sum() > 0) else x


def state(module: nn.Module) -> list[object]:
    """What a patch could leave behind: attributes of the instances, of the functions and of the backends."""
    parts = [(name, dict(vars(part)), dict(part._modules)) for name, part in module.named_modules()]
    return [*parts, functional.embedding_bag, torch.backends.mha.get_fastpath_enabled()]


def test_everything_is_as_it_was_after_an_export_that_fails(tmp_path: Path) -> None:
    made = kinds.masked()
    source = mended.source((Doomed().eval(), *made[1:3], {}))
    before = state(source.module)
    with pytest.raises(ModelError, match="can't be exported"):
        mended.traced(source, tmp_path)
    assert state(source.module) == before


def test_everything_is_as_it_was_after_an_export(tmp_path: Path) -> None:
    made = kinds.masked()
    source = mended.source((kinds.PackingEncoder().eval(), *made[1:3], {"ranges": kinds.RANGES}))
    before = state(source.module)
    mended.traced(source, tmp_path)
    assert state(source.module) == before


def test_a_module_that_needs_no_patch_hears_of_none() -> None:
    heard: list[str] = []
    with patched(nn.Linear(2, 2), heard.append):
        pass
    assert heard == []


@contextlib.contextmanager
def hindering(module: nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """A mend that is none for a module that insists on what it replaces."""

    def relu(*args: Any, **kwargs: Any) -> torch.Tensor:
        tell()
        raise ValueError("another relu is expected")

    with replaced(functional, "relu", relu):
        yield


def test_a_patch_that_stands_in_the_way_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "ORDER", {**patches.ORDER, "hindering": hindering})
    monkeypatch.setattr("mmtrt.export.tracing.ORDER", patches.ORDER)
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    source = mended.source((module, {"input": torch.randn(2, 4)}, {"input": {0: "batch"}}, {}))
    made = mended.export(source, tmp_path)
    assert made.onnx.is_file()
    assert made.applied == ()
