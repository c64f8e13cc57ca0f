from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from deployments import GPU, Doubles, make_bundle, onnx_digest, ran, refused

from mmtrt.artifacts import key_of
from mmtrt.errors import InputError, MachineError
from mmtrt.results import DeployResult

Deploy = Callable[..., DeployResult]


@pytest.fixture
def with_engine(deployed: Deploy, first: Path, root: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a bundle that carries the engine which was built of the first one."""
    deployed(first, until="build")
    (engine,) = root.glob("cache/engines/*/model.engine")
    told = engine.with_name("model.engine.json").read_bytes()

    def make(*, more: bytes = b"", **changes: Any) -> Path:
        row = {"path": "engines/server/model.engine", "manifest": "engines/server/model.engine.json"}
        row |= {"target": "server", "precision": "fp32", "onnx": onnx_digest("1.0.0"), "flavor": "tensorrt"}
        row |= {"flavor_version": "10.3.0", "gpu": GPU.name, "compute_capability": "8.7", **changes}
        files = {row["path"]: engine.read_bytes() + more, row["manifest"]: told}
        return make_bundle(tmp_path / "carries.mmtrt", files=files, engines=[row])

    return make


def test_an_engine_that_fits_exactly_is_reused(
    deployed: Deploy, doubles: Doubles, with_engine: Callable[..., Path], root: Path
) -> None:
    result = deployed(with_engine())
    assert (result.engine, len(doubles.built), result.mismatches) == ("reused", 1, ())
    engine = root / "current" / "model.engine"
    assert engine.read_bytes() == (root / "current/bundle/engines/server/model.engine").read_bytes()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"flavor_version": "10.3.1"}, "TensorRT version"),
        ({"gpu": "Thor"}, "GPU type"),
        ({"compute_capability": "11.0"}, "GPU type"),
        ({"gpu": None, "compute_capability": None}, ""),
        ({"onnx": "0" * 64}, ""),
    ],
)
def test_an_engine_that_nearly_fits_is_not(
    deployed: Deploy, with_engine: Callable[..., Path], changes: dict[str, Any], told: str
) -> None:
    result = deployed(with_engine(**changes))
    assert result.engine == "cached"
    assert [one.what for one in result.mismatches] == [told] * bool(told)
    assert not any(one.stops for one in result.mismatches)


def test_an_engine_that_carries_a_library_is_refused(
    deployed: Deploy, doubles: Doubles, with_engine: Callable[..., Path], root: Path
) -> None:
    library = b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\x3e\0"
    bundle = with_engine(more=library)
    refused(InputError, "carries native code for x86-64", deployed, bundle)
    assert doubles.goldens == []
    assert not (root / "current").exists()


def test_an_engine_whose_settings_are_others_is_not(
    deployed: Deploy, with_engine: Callable[..., Path], root: Path
) -> None:
    bundle = with_engine()
    (manifest,) = root.glob("cache/engines/*/model.engine.json")
    told = json.loads(manifest.read_text())
    told["options"]["optimization_level"] = 5
    row = {"path": "engines/server/model.engine", "manifest": "engines/server/model.engine.json"}
    row |= {"target": "server", "precision": "fp32", "onnx": onnx_digest("1.0.0"), "flavor": "tensorrt"}
    row |= {"flavor_version": "10.3.0", "gpu": GPU.name, "compute_capability": "8.7"}
    files = {row["path"]: manifest.with_suffix("").read_bytes(), row["manifest"]: json.dumps(told).encode()}
    result = deployed(make_bundle(bundle, files=files, engines=[row]))
    assert result.engine == "cached"
    assert any("its options is another one" in note for note in result.notes)


def test_an_engine_that_does_not_load_is_built(
    deployed: Deploy, doubles: Doubles, with_engine: Callable[..., Path]
) -> None:
    bundle = with_engine()
    doubles.outcomes = [MachineError("not for this driver"), ran()]
    result = deployed(bundle)
    assert (result.state, result.engine) == ("deployed", "cached")
    assert any("not for this driver" in note for note in result.notes)


def test_an_onnx_with_the_digest_of_another_is_refused(
    deployed: Deploy, doubles: Doubles, first: Path, tmp_path: Path
) -> None:
    # Its engine would be found in the cache by who deploys the other one.
    model = {"path": "models/fp32/model.onnx", "digest": onnx_digest("2.0.0"), "budget": {}}
    refused(InputError, "is not the ONNX whose digest", deployed, make_bundle(tmp_path / "b", models={"fp32": model}))
    assert doubles.built == []


def test_weights_beside_the_model_are_in_its_digest(deployed: Deploy, doubles: Doubles, tmp_path: Path) -> None:
    name = "models/fp32/model.onnx.data"
    parts = {"onnx": onnx_digest("1.0.0"), "model.onnx.data": sha256(b"weights").hexdigest()}
    model = {"path": "models/fp32/model.onnx", "data": [name], "digest": key_of(parts), "budget": {}}
    deployed(make_bundle(tmp_path / "b", models={"fp32": model}, files={name: b"weights"}))
    other = make_bundle(tmp_path / "c", version="1.1.0", models={"fp32": model}, files={name: b"other weights"})
    refused(InputError, "is not the ONNX whose digest", deployed, other)
    assert len(doubles.built) == 1
