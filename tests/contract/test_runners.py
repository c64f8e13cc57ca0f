"""One contract, one test body: eager PyTorch, ONNX Runtime here and in its own process, TensorRT of both flavours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mmtrt import Session
from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.engine.flavours import gpu, gpu_trouble
from mmtrt.errors import InputError
from mmtrt.export.sources import load_source
from mmtrt.onnx_files import load_model, model_spec
from mmtrt.runtimes import Runner
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.runtimes.tensorrt import TensorRTRunner
from mmtrt.tensors import Array

if TYPE_CHECKING:
    from typing_extensions import Self


def eager(_: Path, __: Path) -> Runner:
    source = load_source("tiny_fusion:factory")
    return EagerRunner(source.module, source.inputs, source.outputs)


def ort(model: Path, _: Path) -> Runner:
    return OrtRunner(model, "parity")


def ort_fast(model: Path, _: Path) -> Runner:
    return OrtRunner(model, "speed", threads=1)


def isolated(model: Path, _: Path) -> Runner:
    return IsolatedOrtRunner(model)


class SessionRunner:
    """What users open, behind the contract of runners."""

    def __init__(self, path: Path) -> None:
        self._session = Session(path)
        self.runs, self.inputs, self.outputs = self._session.runs, self._session.inputs, self._session.outputs

    def infer(self, given: dict[str, Array]) -> dict[str, Array]:
        return self._session.run(given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._session.close()


def session(model: Path, _: Path) -> Runner:
    return SessionRunner(model)


def tensorrt_flavour(flavor: str, runner: Callable[[Path], Runner] = TensorRTRunner) -> Callable[[Path, Path], Runner]:
    def make(model: Path, folder: Path) -> Runner:
        if gpu() is None:
            pytest.skip(f"no GPU: {gpu_trouble()}")
        pytest.importorskip(flavor.replace("-", "_"))
        engine = folder / "tiny.engine"
        profile = model_spec(load_model(model)).profile()
        build_engine(model, engine, profile=profile, options=BuildOptions(flavor=flavor))
        return runner(engine)

    return make


MAKERS = {
    "eager": eager,
    "onnxruntime": ort,
    "onnxruntime-fast": ort_fast,
    "onnxruntime-isolated": isolated,
    "session-onnxruntime": session,
    "session-tensorrt": tensorrt_flavour("tensorrt", SessionRunner),
    "session-tensorrt-rtx": tensorrt_flavour("tensorrt-rtx", SessionRunner),
    "tensorrt": tensorrt_flavour("tensorrt"),
    "tensorrt-rtx": tensorrt_flavour("tensorrt-rtx"),
}


@pytest.fixture(params=sorted(MAKERS))
def runner(request: pytest.FixtureRequest, tiny: Path, tmp_path: Path) -> Iterator[Runner]:
    with MAKERS[request.param](tiny, tmp_path) as entered:
        yield entered


def feeds(batch: int = 2, text: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((batch, 3, 16, 16)).astype(np.float32),
        "ids": rng.integers(1, 20, (batch, text)),
        "mask": np.ones((batch, text), dtype=np.int64),
    }


def truth(given: dict[str, Array]) -> dict[str, Array]:
    source = load_source("tiny_fusion:factory")
    return EagerRunner(source.module, source.inputs, source.outputs).infer(given)


def test_it_fulfils_the_contract(runner: Runner) -> None:
    assert isinstance(runner, Runner)
    assert any(name in runner.runs for name in ("PyTorch", "onnxruntime", "TensorRT"))
    assert [spec.name for spec in runner.inputs] == ["image", "ids", "mask"]
    assert [spec.name for spec in runner.outputs] == ["answer", "match"]


@pytest.mark.parametrize(("batch", "text"), [(1, 2), (2, 5), (8, 8)])
def test_it_says_what_pytorch_says_at_every_shape(runner: Runner, batch: int, text: int) -> None:
    given = feeds(batch, text)
    told, wanted = runner.infer(given), truth(given)
    assert list(told) == ["answer", "match"]
    for name, array in wanted.items():
        assert told[name].shape == array.shape
        assert told[name].dtype == array.dtype
        assert np.allclose(told[name], array, atol=2e-3 if "TensorRT" in runner.runs else 1e-5)


def test_it_gives_the_same_again_whatever_came_between(runner: Runner) -> None:
    first = runner.infer(feeds())
    runner.infer(feeds(8, 8))
    again = runner.infer(feeds())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    # What was handed out is the caller's.
    first["answer"][:] = 0
    assert not np.array_equal(first["answer"], runner.infer(feeds())["answer"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f: f.pop("mask"), "mask"),
        (lambda f: f.update(masc=f.pop("mask")), "masc"),
        (lambda f: f.update(ids=f["ids"].astype(np.int32)), "ids"),
        (lambda f: f.update(image=f["image"][0]), "image"),
        (lambda f: f.update(image=f["image"][:, :, :8]), "image"),
        (lambda f: f.update(mask=f["mask"][:, :3]), "mask"),
    ],
)
def test_a_wrong_input_is_named_and_the_runner_still_works(
    runner: Runner, change: Callable[[dict[str, Array]], object], named: str
) -> None:
    given = feeds()
    change(given)
    with pytest.raises(InputError, match=repr(named)):
        runner.infer(given)
    assert runner.infer(feeds())


def test_outside_its_block_a_runner_refuses_to_run(tiny: Path) -> None:
    for made in (OrtRunner(tiny, "parity"), IsolatedOrtRunner(tiny)):
        with pytest.raises(RuntimeError, match="outside"):
            made.infer(feeds())
        with made:
            pass
        with pytest.raises(RuntimeError, match="outside"):
            made.infer(feeds())
