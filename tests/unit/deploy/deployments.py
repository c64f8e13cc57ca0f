"""Bundles made by hand, and stand-ins for the board, the builder and the engine's run: no framework, no GPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from mmtrt.artifacts import file_digest
from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.manifest import Manifest
from mmtrt.deploy import deploying, engines
from mmtrt.deploy.golden import Golden, Measured
from mmtrt.deploy.preflight import Machine
from mmtrt.engine.board import Board
from mmtrt.engine.build import EngineBuild
from mmtrt.engine.flavours import Flavour, GpuInfo
from mmtrt.engine.layers import LayerSummary
from mmtrt.engine.profiles import NetworkTensor, full_profile
from mmtrt.engine.targets import Target
from mmtrt.errors import MmtrtError
from mmtrt.tensors import ModelSpec, TensorSpec

__all__ = [
    "ANY_RTX",
    "GPU",
    "RTX",
    "SERVER",
    "SPEC",
    "Doubles",
    "an_onnx",
    "field",
    "make_bundle",
    "onnx_digest",
    "ran",
    "refused",
]

GPU = GpuInfo(name="Orin", compute_capability="8.7", memory_mib=7620, driver="540.4 (CUDA 12.6)")
TENSORRT = Flavour(name="tensorrt", version="10.3.0", needs_gpu_to_build=True)
RTX = Flavour(name="tensorrt-rtx", version="1.7.1", needs_gpu_to_build=False)
BOARD = Machine(flavours=(TENSORRT, RTX), gpu=GPU, gpu_trouble="", reaches_cuda=True, board=Board(memory_free_mib=6000))
SERVER = Target(name="server", description="", flavor="tensorrt", workspace_mib=1024, optimization_level=3)
ANY_RTX = Target(name="any-rtx", description="", flavor="tensorrt-rtx")
SPEC = ModelSpec(
    inputs=(TensorSpec(name="x", dtype="float32", shape=("batch", 4)),),
    outputs=(TensorSpec(name="y", dtype="float32", shape=("batch", 4)),),
    ranges={"batch": (1, 2, 8)},
    source="toy:factory",
)


def make_bundle(
    out: Path,
    *,
    version: str = "1.0.0",
    name: str = "toy",
    targets: tuple[Target, ...] = (SERVER, ANY_RTX),
    files: Mapping[str, bytes] | None = None,
    tar: bool = True,
    told: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a bundle with an ONNX without a graph: the stand-ins build it all the same."""
    folder = out.with_name(f"{out.name}.files")
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"models/fp32/model.onnx": an_onnx(version), **(files or {})}
    paths = {}
    for index, (inner, content) in enumerate(contents.items()):
        paths[inner] = folder / str(index)
        paths[inner].write_bytes(content)
    paths["golden/00000.npz"] = folder / "golden.npz"
    np.savez(paths["golden/00000.npz"], x=np.ones(4, np.float32), **{"output.y": np.ones(4, np.float32)})
    manifest = {
        "schema": "mmtrt.bundle/1",
        "name": name,
        "version": version,
        "mmtrt": "1",
        "files": {n: {"sha256": file_digest(path), "bytes": path.stat().st_size} for n, path in sorted(paths.items())},
        "spec": SPEC.to_json(),
        "recipe": {},
        "models": {"fp32": {"path": "models/fp32/model.onnx", "digest": onnx_digest(version), "budget": {}}},
        "targets": told or {t.name: {"precision": "fp32", "settings": t.model_dump(mode="json")} for t in targets},
        "golden": "golden",
        **changes,
    }
    write_bundle(out, paths, Manifest.model_validate(json.loads(json.dumps(manifest))), None, tar=tar)
    return out


def an_onnx(version: str) -> bytes:
    """Return a model that has a producer's name and nothing else, as protobuf writes it."""
    return b"\x08\x08" + field(2, version.encode())


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message that has so many bytes, at most 127."""
    return bytes([number << 3 | 2, len(content)]) + content


def onnx_digest(version: str) -> str:
    return hashlib.sha256(an_onnx(version)).hexdigest()


def ran(verdict: str = "pass", p50_ms: float = 1.0) -> Measured:
    """What a run of an engine gave."""
    return Measured(
        verdict=verdict,
        runs="TensorRT 10.3.0 on Orin",
        parity={"verdict": verdict, "samples": 1, "outputs": {}},
        latency={"p50_ms": p50_ms, "p99_ms": p50_ms, "n": 10, "clock": "cuda_event"} if verdict == "pass" else None,
        p50_ms=p50_ms,
        notes=(),
    )


class Doubles:
    """Stands in for the machine, the builder and the engine's run; tells what was built and run.

    A run gives `outcome`, or what is first in `outcomes`.
    """

    def __init__(self) -> None:
        self.machine = BOARD
        self.outcome: Measured | BaseException = ran()
        self.outcomes: list[Measured | BaseException] = []
        self.summary: LayerSummary | None = None
        self.built: list[Mapping[str, Any]] = []
        self.goldens: list[Golden] = []

    def look(self) -> Machine:
        return self.machine

    def build_engine(self, onnx: Path, engine: Path, **given: Any) -> EngineBuild:
        options, flavour = given["options"], given["flavour"]
        timing = options.timing_cache
        if timing is not None:
            timing.write_bytes((timing.read_bytes() if timing.is_file() else b"") + b"+timed")
        self.built.append({"onnx": onnx.read_bytes(), "timing": timing and timing.read_bytes(), **given})
        engine.write_bytes(b"ftrt".ljust(64, b"\0") + onnx.read_bytes() + str(len(self.built)).encode())
        inputs = (NetworkTensor(name="x", dtype="float32", shape=("batch", 4)),)
        return EngineBuild(
            engine=engine,
            flavor=flavour.name,
            flavor_version=flavour.version,
            gpu=self.machine.gpu,
            engine_bytes=engine.stat().st_size,
            build_s=1.0,
            inputs=inputs,
            outputs=(NetworkTensor(name="y", dtype="float32", shape=("batch", 4)),),
            profile=full_profile(given["profile"], inputs),
            options=options,
            layers=() if self.summary else None,
            summary=self.summary,
            notes=(),
        )

    def measured(self, golden: Golden) -> Measured:
        self.goldens.append(golden)
        outcome = self.outcomes.pop(0) if self.outcomes else self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def patches(self) -> list[AbstractContextManager[Any]]:
        """Return what puts the stand-ins in their places."""
        return [
            mock.patch.object(deploying, "look", self.look),
            mock.patch.object(deploying, "measured", self.measured),
            mock.patch.object(engines, "build_engine", self.build_engine),
        ]

    def without_gpu(self) -> None:
        self.machine = replace(self.machine, gpu=None, gpu_trouble="no driver")


def refused(error: type[MmtrtError], text: str, deploy: Callable[..., Any], *given: Any, **changes: Any) -> MmtrtError:
    with pytest.raises(error, match=text) as raised:
        deploy(*given, **changes)
    return raised.value
