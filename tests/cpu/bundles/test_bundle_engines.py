"""Engines of several targets in one bundle, by a stand-in for the builder: which are carried, and for which GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmtrt.artifacts import StageCache
from mmtrt.bundle.manifest import Manifest
from mmtrt.bundle.opening import unpack
from mmtrt.engine.build import EngineBuild
from mmtrt.engine.flavours import Flavour
from mmtrt.engine.options import BuildOptions
from mmtrt.errors import MachineError
from mmtrt.pipeline import bundling, engine_stage
from mmtrt.pipeline.bundling import bundle_recipe
from mmtrt.pipeline.context import Context
from mmtrt.recipe import load_recipe
from mmtrt.results import BundleResult
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.tensorrt_api import FlavourName
from mmtrt.tensors import Profile

HERE = GpuInfo(name="NVIDIA H200", compute_capability="9.0", memory_mib=143771, driver="580.1 (CUDA 13.0)")
TARGETS = """
[bundle]
targets = ["server", "any-rtx", "current.toml", "ada.toml", "orin-nano"]
precisions.server = "fp32"
"""
Bundled = tuple[BundleResult, Manifest, Path]


def build_engine(
    onnx: Path, engine: Path, *, profile: Profile, options: BuildOptions, explain: Callable[..., Any]
) -> EngineBuild:
    """What the real one leaves: an engine, and of TensorRT what it timed."""
    flavor: FlavourName = "tensorrt" if options.flavor == "tensorrt" else "tensorrt-rtx"
    engine.write_bytes(f"{flavor} engine of {onnx.parent.name}/{onnx.name}".encode())
    if options.timing_cache is not None:
        options.timing_cache.write_bytes(b"timed")
    return EngineBuild(
        engine=engine,
        flavor=flavor,
        flavor_version="10.16.1" if flavor == "tensorrt" else "1.7.1",
        gpu=HERE,
        engine_bytes=engine.stat().st_size,
        build_s=0.1,
        inputs=(),
        outputs=(),
        profile=profile,
        options=options,
        layers=None,
        summary=None,
        notes=(f"the timing cache {engine.parent}/timing.cache is new",),
    )


def choose(wanted: str) -> Flavour:
    if wanted == "tensorrt":
        return Flavour(name="tensorrt", version="10.16.1", needs_gpu_to_build=True)
    return Flavour(name="tensorrt-rtx", version="1.7.1", needs_gpu_to_build=False)


@pytest.fixture
def bundled(tiny_bundle: Path, tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Bundled:
    """The test model on a machine with an H200 and both flavours; its stages but for the engines are done already."""
    monkeypatch.chdir(tmp_path)
    for module in (bundling, engine_stage):
        monkeypatch.setattr(module, "gpu", lambda: HERE)
        monkeypatch.setattr(module, "choose", choose)
    monkeypatch.setattr(engine_stage, "build_engine", build_engine)
    for name, capability in (("current", "CURRENT"), ("ada", "SM89")):
        text = f'name = "{name}"\ndescription = "d"\nflavor = "tensorrt-rtx"\ncompute_capability = "{capability}"\n'
        Path(f"{name}.toml").write_text(text, encoding="utf-8")
    text, _, _ = tiny_bundle.with_suffix(".toml").read_text(encoding="utf-8").partition("[bundle]")
    Path("tiny.toml").write_text(text + TARGETS, encoding="utf-8")
    context = Context(cache=StageCache(shared_cache))
    result = bundle_recipe(context, load_recipe(Path("tiny.toml")), "tiny.mmtrt")
    Path("unpacked").mkdir()
    return result, unpack(Path("tiny.mmtrt"), Path("unpacked")).manifest, Path("unpacked")


def test_each_engine_says_what_it_is_for(bundled: Bundled) -> None:
    result, manifest, folder = bundled
    told = {engine.target: (engine.flavor, engine.gpu, engine.compute_capability) for engine in manifest.engines}
    assert told == {
        "server": ("tensorrt", "NVIDIA H200", "9.0"),
        # Portable over all that TensorRT-RTX supports, though there was a GPU.
        "any-rtx": ("tensorrt-rtx", None, None),
        "current": ("tensorrt-rtx", "NVIDIA H200", "9.0"),
        "ada": ("tensorrt-rtx", None, "8.9"),
    }
    precisions = {engine.target: engine.precision for engine in manifest.engines}
    assert precisions == {"server": "fp32", "any-rtx": "int8", "current": "int8", "ada": "int8"}
    for engine in manifest.engines:
        assert engine.onnx == manifest.models[engine.precision].digest
        assert result.targets[engine.target].engine == "carried"
        assert result.targets[engine.target].engine_bytes == (folder / engine.path).stat().st_size
    assert len({manifest.files[engine.path].sha256 for engine in manifest.engines}) > 1


def test_an_engine_for_another_gpu_is_left_to_the_board(bundled: Bundled) -> None:
    state = bundled[0].targets["orin-nano"]
    assert state.engine == "built on the board"
    assert "8.7" in state.why
    assert "NVIDIA H200 has 9.0" in state.why


def test_what_tensorrt_timed_is_carried_and_tells_of_no_machine(bundled: Bundled, tmp_path: Path) -> None:
    _, manifest, folder = bundled
    (cache,) = manifest.timing_caches
    assert (cache.flavor, cache.flavor_version) == ("tensorrt", "10.16.1")
    assert (cache.gpu, cache.compute_capability) == ("NVIDIA H200", "9.0")
    assert (folder / cache.path).read_bytes() == b"timed"
    for engine in manifest.engines:
        text = (folder / engine.manifest).read_text(encoding="utf-8")
        assert "the timing cache timing.cache is new" in text
        assert str(tmp_path.parent) not in text


def test_a_target_that_is_not_for_this_machine_stops_nothing(
    tiny_bundle: Path, tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(wanted: str) -> Flavour:
        raise MachineError(f"no TensorRT is installed for {wanted}")

    monkeypatch.setattr(bundling, "choose", none_here)
    told: list[str] = []
    context = Context(cache=StageCache(shared_cache), note=told.append)
    result = bundle_recipe(context, load_recipe(tiny_bundle.with_suffix(".toml")), str(tmp_path / "tiny.mmtrt"))
    assert {state.engine for state in result.targets.values()} == {"built on the board"}
    assert result.targets["any-rtx"].why == "no TensorRT is installed for tensorrt-rtx"
    assert any("any-rtx" in text and "built on the board" in text for text in told)
