"""The stand-ins have no name that the releases which they stand for lack, and no parameter of another name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import tensorrt
import tensorrt_rtx
from make_table import RTX
from trt_table import Table

TABLE = Table.read()
# In 10.3 a module has fewer names than in 11.4: what the stand-in has, each of them must have.
RELEASES = {tensorrt: set(TABLE.releases) - {RTX}, tensorrt_rtx: {RTX}}
# Of the enumerations' machinery, which pybind11 has by other means.
PYTHONS = {"name", "value"}


def names(module: ModuleType) -> Iterator[tuple[str, str, Any]]:
    for name in module.__all__:
        value = getattr(module, name)
        yield "", name, value
        if isinstance(value, type):
            ours = [kind for kind in value.__mro__ if kind.__module__.startswith("engine_stand_in")]
            parts = {part: member for kind in reversed(ours) for part, member in vars(kind).items()}
            for part, member in parts.items():
                if not part.startswith("_") and part not in PYTHONS:
                    yield name, part, member


@pytest.mark.parametrize("module", [tensorrt, tensorrt_rtx], ids=lambda module: module.__name__)
def test_no_name_is_invented(module: ModuleType) -> None:
    found = list(names(module))
    assert len(found) > 80
    missing = [f"{owner}.{name}" for owner, name, _ in found if not RELEASES[module] <= set(TABLE.find(owner, name))]
    assert missing == []


@pytest.mark.parametrize("module", [tensorrt, tensorrt_rtx], ids=lambda module: module.__name__)
def test_parameters_have_their_names(module: ModuleType) -> None:
    checked = 0
    for owner, name, value in names(module):
        if not inspect.isfunction(value) or not owner:
            continue
        given = [
            p.name for p in list(inspect.signature(value).parameters.values())[1:] if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        for release, kind in TABLE.find(owner, name).items():
            if release in RELEASES[module] and given:
                assert all(f"{parameter}:" in kind for parameter in given), f"{owner}.{name}{kind}"
                checked += 1
    assert checked > 20
