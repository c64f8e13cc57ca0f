"""What all tests share: a cache of their own, the test models on the path, one export for all, a tracer that rests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

MODELS = Path(__file__).parent / "models"
EXPORT_TESTS = Path(__file__).parent / "cpu" / "export"
sys.path.insert(0, str(MODELS))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop() -> Generator[None, object, object]:
    """Leave out what a process that a test killed had half written of its coverage: no other file can hold it."""
    result = yield
    target = os.environ.get("COVERAGE_FILE")
    if target and "PYTEST_XDIST_WORKER" not in os.environ:
        for path in Path(target).parent.glob(f"{Path(target).name}.*"):
            if not _whole(path):
                path.unlink()
    return result


def _whole(path: Path) -> bool:
    from coverage import CoverageData
    from coverage.exceptions import CoverageException

    with contextlib.suppress(CoverageException):
        CoverageData(no_disk=True).update(CoverageData(str(path), read_only=True))
        return True
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Stop coverage while PyTorch's exporter runs, in fixtures too: its tracer makes that two thirds slower.

    Where the exporter's own patches and translations are what is tested, it counts.
    """
    exporter = sys.modules.get("torch.onnx")
    counts = item.path.is_relative_to(EXPORT_TESTS)
    if exporter is None or counts or sys.gettrace() is None:
        return (yield)
    original = exporter.export
    exporter.export = _untraced(original)
    try:
        return (yield)
    finally:
        exporter.export = original


def _untraced(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return function(*arguments, **options)
        finally:
            sys.settrace(tracer)

    return run


@pytest.fixture(scope="session")
def shared_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where finished stages of this run are kept: the processes that run the tests share it."""
    base = tmp_path_factory.getbasetemp()
    # A worker of xdist has its own folder within that of the run.
    return (base.parent if hasattr(request.config, "workerinput") else base) / "cache"


@pytest.fixture(autouse=True)
def _own_cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache; one cache a run lets tests share finished stages."""
    # Where the tests themselves run in a step, its summary is not for the checks that they run.
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(shared_cache))
    paths = [str(MODELS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


Mmtrt = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def mmtrt(tmp_path: Path) -> Mmtrt:
    """Run the command line in a process of its own, in an empty folder unless `cwd` says otherwise."""

    def run(*arguments: object, cwd: Path = tmp_path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mmtrt", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """The exported test model, `tiny.onnx`, with `tiny.calib/` and `tiny.golden/` beside it."""
    from mmtrt.artifacts import StageCache
    from mmtrt.export.exporter import ExportOptions
    from mmtrt.export.sources import load_source
    from mmtrt.pipeline.context import Context
    from mmtrt.pipeline.exporting import export_stage, publish_export

    folder = tmp_path_factory.mktemp("tiny")
    context = Context(cache=StageCache(shared_cache))
    made = export_stage(context, load_source("tiny_fusion:factory"), ExportOptions(calibration_samples=40))
    return publish_export(made, folder, "tiny").onnx


TINY_RECIPE = """
[model]
source = "tiny_fusion:factory"

[precision]
build = ["fp32", "int8"]
coverage = "wide"

[calibration]
count = 40

[parity]
stress = ["corner"]

[parity.budget.int8]
sqnr_db = 15

[bundle]
version = "1.2.0"
targets = ["any-rtx", "orin-nano"]
golden = 4
"""


@pytest.fixture(scope="session")
def tiny_bundle(tiny: Path, tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A bundle of the test model, `tiny.mmtrt`: one file, FP32 and INT8, four golden samples, not signed.

    It carries the engine of `any-rtx` where TensorRT-RTX is installed; that of `orin-nano` is built on the board.
    """
    from mmtrt.artifacts import StageCache
    from mmtrt.pipeline.bundling import bundle_recipe
    from mmtrt.pipeline.context import Context
    from mmtrt.recipe import load_recipe

    folder = tmp_path_factory.mktemp("bundle")
    (folder / "tiny.toml").write_text(TINY_RECIPE, encoding="utf-8")
    # The cache in which the export of `tiny` lies.
    context = Context(cache=StageCache(shared_cache))
    return Path(bundle_recipe(context, load_recipe(folder / "tiny.toml"), str(folder / "tiny.mmtrt")).path)
