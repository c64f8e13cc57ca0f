from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmtrt.engine import flavours
from mmtrt.engine.flavours import choose, installed
from mmtrt.errors import MachineError, UsageError
from mmtrt.runtimes.tensorrt_api import import_flavour


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make exactly these flavours importable."""

    def only(*names: str) -> None:
        for module in ("tensorrt", "tensorrt_rtx"):
            found = ModuleType(module)
            found.__version__ = "1.2.3"  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, module, found if module in names else None)

    return only


def test_auto_is_tensorrt_where_a_gpu_is(have: Any, orin: Any) -> None:
    have("tensorrt", "tensorrt_rtx")
    assert str(choose()) == "TensorRT 1.2.3"
    assert choose().needs_gpu_to_build


def test_auto_is_rtx_without_a_gpu(have: Any, no_gpu: None) -> None:
    have("tensorrt", "tensorrt_rtx")
    assert choose("auto").name == "tensorrt-rtx"
    assert not choose().needs_gpu_to_build


def test_auto_with_tensorrt_alone_says_what_to_install(have: Any, no_gpu: None) -> None:
    have("tensorrt")
    with pytest.raises(MachineError, match=r"mmtrt\[rtx\]") as caught:
        choose()
    assert "needs a GPU to build" in str(caught.value)


def test_auto_with_nothing_says_what_to_install(have: Any, no_gpu: None) -> None:
    have()
    assert installed() == []
    with pytest.raises(MachineError, match=r"mmtrt\[rtx\].*mmtrt\[tensorrt\]") as caught:
        choose()
    assert caught.value.exit_code == 4


def test_a_named_flavour_must_be_there(have: Any, no_gpu: None) -> None:
    have("tensorrt")
    with pytest.raises(MachineError, match="TensorRT-RTX is not installed"):
        choose("tensorrt-rtx")


@pytest.mark.parametrize(
    ("wrong", "near"), [("tensorrtrtx", "tensorrt-rtx"), ("rtx", "tensorrt-rtx"), ("cuda!", "Choose")]
)
def test_an_unknown_flavour_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UsageError, match=near):
        choose(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('libnvinfer.so.10: cannot open')", "installed but does not load: libnvinfer"),
        ("raise OSError('wrong ELF class')", "does not load: wrong ELF"),
        ("import a_module_that_is_not_there", "does not load: No module named 'a_module"),
    ],
)
def test_a_broken_installation_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "tensorrt.py").write_text(text, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MachineError, match=words):
        import_flavour("tensorrt")
    assert flavours._loadable("tensorrt") is None
