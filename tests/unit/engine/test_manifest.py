from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine import manifest
from mmtrt.engine.build import BuildOptions, EngineBuild
from mmtrt.engine.inspect import inspect_engine
from mmtrt.engine.layers import EngineLayer, summarise
from mmtrt.engine.profiles import NetworkTensor
from mmtrt.errors import InputError
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.tensorrt_api import flavour_of, plan_flavour
from mmtrt.tensors import ShapeRange

LAYER = EngineLayer(name="a", kind="gemm", tactic="t", inputs=(), outputs=())
ORIN = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="x")


@pytest.fixture
def built(tmp_path: Path) -> EngineBuild:
    engine = tmp_path / "model.int8.engine"
    engine.write_bytes(b"vtrt".ljust(100, b"\0"))
    return EngineBuild(
        engine=engine,
        flavor="tensorrt-rtx",
        flavor_version="1.7.1.116",
        gpu=None,
        engine_bytes=100,
        build_s=1.23456,
        inputs=(NetworkTensor(name="x", dtype="float32", shape=("batch", 4)),),
        outputs=(NetworkTensor(name="y", dtype="float32", shape=("y_0", 4)),),
        profile={"x": ShapeRange(min=(1, 4), opt=(2, 4), max=(4, 4))},
        options=BuildOptions(timing_cache=Path("/here/orin.cache"), target="orin"),
        layers=(LAYER,),
        summary=summarise((LAYER,)),
        notes=("a note",),
    )


def save(built: EngineBuild) -> manifest.Manifest:
    return manifest.write(built, onnx_digest="abc", precision="int8", calibration={"samples": 64})


def test_what_is_written_is_read(built: EngineBuild) -> None:
    written = save(built)
    assert manifest.read(built.engine) == written
    assert manifest.verify(built.engine) == written
    assert manifest.manifest_path(built.engine).name == "model.int8.engine.json"
    data = json.loads(manifest.manifest_path(built.engine).read_text(encoding="utf-8"))
    assert data["schema"] == "mmtrt.engine/1"
    assert data["ran"] is False
    assert data["gpu"] is None
    assert data["layers"]["kernels"] == 1
    assert data["options"]["timing_cache"] == "orin.cache"


def test_the_gpu_that_it_was_built_on_is_kept(built: EngineBuild) -> None:
    written = save(replace(built, gpu=ORIN))
    assert written.gpu == {"name": "Orin", "compute_capability": "8.7", "memory_mib": 7620, "driver": "x"}
    assert manifest.read(built.engine) == written


def test_layers_lie_beside_it_and_old_ones_go(built: EngineBuild) -> None:
    save(built)
    path = manifest.layers_path(built.engine)
    assert json.loads(path.read_text(encoding="utf-8"))["layers"][0]["role"] == "gemm"
    unknown = save(replace(built, layers=None, summary=None))
    assert not path.exists()
    assert unknown.layers is None
    assert manifest.read(built.engine) == unknown


def test_an_altered_engine_is_told(built: EngineBuild) -> None:
    save(built)
    assert inspect_engine(built.engine).integrity == "matches"
    built.engine.write_bytes(b"vtrt".ljust(101, b"\0"))
    with pytest.raises(InputError, match="altered"):
        manifest.verify(built.engine)
    assert inspect_engine(built.engine).integrity == "altered"


def broken(data: dict[str, Any], **changes: Any) -> str:
    return json.dumps({**data, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ("{", "no JSON"),
        ("[]", "no manifest of an engine"),
        ({"schema": "mmtrt.engine/2"}, "no manifest of an engine"),
        ({"engine": {}}, "is broken: KeyError"),
        ({"profile": []}, "is broken: AttributeError"),
        ({"inputs": 3}, "is broken: 'inputs'"),
        ({"build_s": "soon"}, "is broken: ValueError"),
    ],
)
def test_a_broken_manifest_is_an_input_error(built: EngineBuild, changes: Any, words: str) -> None:
    save(built)
    path = manifest.manifest_path(built.engine)
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(changes if isinstance(changes, str) else broken(data, **changes), encoding="utf-8")
    with pytest.raises(InputError, match=words):
        manifest.read(built.engine)


def test_without_a_manifest(built: EngineBuild) -> None:
    info = inspect_engine(built.engine)
    assert (info.flavor, info.engine_bytes, info.integrity) == ("tensorrt-rtx", 100, "no manifest")
    with pytest.raises(InputError, match="there is no manifest"):
        manifest.read(built.engine)


@pytest.mark.parametrize(
    ("magic", "flavour"), [(b"vtrt", "tensorrt-rtx"), (b"ftrt", "tensorrt"), (b"\x08\x0a\x12\x07", None)]
)
def test_the_header_tells_whose_plan_it_is(tmp_path: Path, magic: bytes, flavour: str | None) -> None:
    plan = tmp_path / "a.engine"
    plan.write_bytes(magic.ljust(64, b"\0"))
    assert plan_flavour(plan) == flavour
    if flavour is None:
        with pytest.raises(InputError, match="no engine that mmtrt knows"):
            flavour_of(plan)
    else:
        assert flavour_of(plan) == flavour


def test_a_manifest_knows_better_than_the_header(built: EngineBuild) -> None:
    save(replace(built, flavor="tensorrt"))
    assert flavour_of(built.engine) == "tensorrt"


@pytest.mark.parametrize("content", [None, b"", b"vtrt"])
def test_files_that_are_no_engines(tmp_path: Path, content: bytes | None) -> None:
    plan = tmp_path / "a.engine"
    if content is not None:
        plan.write_bytes(content)
    with pytest.raises(InputError):
        inspect_engine(plan)
    with pytest.raises(InputError):
        inspect_engine(tmp_path)
