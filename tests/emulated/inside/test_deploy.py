"""`mmtrt deploy` on the emulated GPU: built, held to the golden samples, timed, switched to, gone back from, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mmtrt import Session
from mmtrt.artifacts import file_digest
from mmtrt.bundle.archive import write_bundle
from mmtrt.bundle.manifest import Manifest
from mmtrt.engine.targets import load_target
from mmtrt.onnx_files import model_digest, model_spec, open_model
from mmtrt.samples import OUTPUT

Run = Callable[..., tuple[object, Any, str]]


@pytest.fixture
def bundle(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a bundle of the test model for `server`, in FP32; `golden` changes its samples."""
    golden = tiny.with_name("tiny.golden")

    def make(version: str, change: Callable[[dict[str, Any]], None] = lambda _: None, **manifest: Any) -> Path:
        folder = tmp_path / f"{version}.files"
        folder.mkdir()
        files = {"models/fp32/tiny.onnx": tiny, **manifest.pop("files", {})}
        for path in sorted(golden.glob("*.npz")):
            with np.load(path) as arrays:
                sample = dict(arrays)
            change(sample)
            np.savez(folder / path.name, **sample)
            files[f"golden/{path.name}"] = folder / path.name
        told = {
            "schema": "mmtrt.bundle/1",
            "name": "tiny",
            "version": version,
            "mmtrt": "1",
            "files": {n: {"sha256": file_digest(p), "bytes": p.stat().st_size} for n, p in files.items()},
            "spec": model_spec(open_model(tiny)).to_json(),
            "recipe": {},
            "models": {"fp32": {"path": "models/fp32/tiny.onnx", "digest": model_digest(tiny), "budget": {}}},
            "targets": {"server": {"precision": "fp32", "settings": load_target("server").model_dump(mode="json")}},
            "golden": "golden",
            **manifest,
        }
        out = tmp_path / f"{version}.mmtrt"
        write_bundle(out, files, Manifest.model_validate(told), None, tar=True)
        return out

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "DIR"


@pytest.fixture
def deployed(command: Run, root: Path) -> Callable[..., Mapping[str, Any]]:
    """Deploy to `DIR` and return the document; the exit code is `code`."""

    def run(*arguments: object, code: int = 0) -> Mapping[str, Any]:
        left, told, said = command("deploy", "--to", root, *arguments)
        assert left == code, said
        return dict(told)

    return run


def spoilt(sample: dict[str, Any]) -> None:
    sample.update({name: -array for name, array in sample.items() if name.startswith(OUTPUT)})


def now(root: Path) -> str:
    return str((root / "current").readlink())


def test_a_bundle_is_deployed_and_gone_back_from(
    bundle: Callable[..., Path], deployed: Callable[..., Mapping[str, Any]], root: Path, tiny: Path
) -> None:
    first = deployed(bundle("1.0.0"))
    assert (first["state"], first["engine"], first["target"]) == ("deployed", "built", "server")
    assert "Emulated GPU" in first["ran"]
    assert (first["parity"]["verdict"], first["parity"]["samples"]) == (
        "pass",
        len(list(tiny.with_name("tiny.golden").glob("*.npz"))),
    )
    assert (first["latency"]["clock"], first["latency"]["p50_ms"] > 0) == ("cuda_event", True)
    assert json.loads((root / "deployed.json").read_text()) == first
    with Session(root) as session:
        assert "Emulated GPU" in session.runs

    # The engine of the first one fits the second as it is: the cache has it, or the bundle.
    (engine,) = root.glob("cache/engines/*/model.engine")
    row = {"path": "engines/server/model.engine", "manifest": "engines/server/model.engine.json", "target": "server"}
    row |= {
        "precision": "fp32",
        "onnx": model_digest(tiny),
        "flavor": "tensorrt",
        "flavor_version": first["flavor_version"],
    }
    gpu = first["machine"]["gpu"]
    row |= {"gpu": gpu["name"], "compute_capability": gpu["compute_capability"]}
    files = {row["path"]: engine, row["manifest"]: engine.with_name("model.engine.json")}
    second = deployed(bundle("1.1.0", files=files, engines=[row]))
    assert (second["state"], second["engine"], second["previous"]) == ("deployed", "reused", first["version_directory"])

    assert deployed("--rollback")["version"] == "1.0.0"
    assert now(root) == f"versions/{first['version_directory']}"
    assert deployed("--rollback", code=3)["schema"] == "mmtrt.error/1"


def test_what_is_out_of_budget_is_rejected(
    bundle: Callable[..., Path], deployed: Callable[..., Mapping[str, Any]], root: Path
) -> None:
    first = deployed(bundle("1.0.0"))
    before = now(root)
    rejected = deployed(bundle("1.2.0", spoilt), code=1)
    assert (rejected["state"], rejected["parity"]["verdict"], rejected["latency"]) == ("rejected", "fail", None)
    slow = deployed(bundle("1.3.0"), "--max-p50-ms", "0.000001", code=1)
    assert (slow["state"], slow["parity"]["verdict"]) == ("rejected", "pass")
    assert now(root) == before
    assert before == f"versions/{first['version_directory']}"


@pytest.fixture
def started(bundle: Callable[..., Path], root: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a deploy of a new bundle in a process group of its own."""
    new = bundle("2.0.0")
    processes = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "mmtrt", "deploy", str(new), "--to", str(root)]
        process = subprocess.Popen(
            command,
            env={**os.environ, "EMULATED_BUILD_MS": "1000"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # A shell that starts the tests in the background has them ignore Ctrl-C, and this inherits it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(("moment", "sent"), [("engine for", signal.SIGKILL), ("run model", signal.SIGINT)])
def test_a_deploy_that_is_ended_leaves_the_old_version(
    moment: str,
    sent: signal.Signals,
    bundle: Callable[..., Path],
    deployed: Callable[..., Mapping[str, Any]],
    started: Callable[[], subprocess.Popen[str]],
    root: Path,
) -> None:
    deployed(bundle("1.0.0"))
    # Otherwise it is in the cache.
    for engine in root.glob("cache/engines/*"):
        (engine / "model.engine").write_bytes(b"")
    before = now(root)
    process = started()
    assert process.stderr is not None
    for line in process.stderr:
        if moment in line:
            break
    time.sleep(0.3)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, sent)
    process.communicate(timeout=60)
    assert process.returncode == (-sent if sent == signal.SIGKILL else 130)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]
    assert now(root) == before
    assert bool(list(root.rglob(".*.part"))) == (sent == signal.SIGKILL)

    assert deployed(root.parent / "2.0.0.mmtrt")["state"] == "deployed"
    assert not list(root.rglob(".*.part"))
