from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from deployments import GPU, RTX, SERVER, SPEC, Doubles, an_onnx, field, make_bundle, onnx_digest, ran, refused

from mmtrt.bundle.opening import verify
from mmtrt.bundle.reading import Sealed
from mmtrt.deploy.deploying import roll_back
from mmtrt.engine.board import Board
from mmtrt.engine.layers import LayerSummary
from mmtrt.errors import BuildError, InputError, MachineError, UsageError
from mmtrt.results import DeployResult

Deploy = Callable[..., DeployResult]


def now(root: Path) -> str:
    return str((root / "current").readlink())


def test_a_deploy_switches_to_a_version_that_is_whole(deployed: Deploy, first: Path, root: Path) -> None:
    result = deployed(first)

    assert (result.state, result.switched, result.engine, result.target) == ("deployed", True, "built", "server")
    version = root / "versions" / result.version_directory
    assert now(root) == f"versions/{version.name}"
    assert version.name == f"0001-toy-1.0.0-{result.digest[:12]}"
    assert verify(version / "bundle").digest == result.digest
    assert json.loads((root / "deployed.json").read_text()) == result.to_json()
    assert {path.name for path in version.iterdir()} >= {"bundle", "model.engine", "model.engine.json", "deployed.json"}
    assert not list(root.rglob("*.part"))


def test_the_same_bundle_is_deployed_already_while_all_is_whole(
    deployed: Deploy, doubles: Doubles, first: Path, root: Path
) -> None:
    version = deployed(first).version_directory
    again = deployed(first)
    assert (again.state, again.switched, again.version_directory) == ("already deployed", False, version)
    assert len(doubles.goldens) == 1

    (root / "versions" / version / "model.engine").write_bytes(b"something else")
    mended = deployed(first)
    # What was altered is nothing to go back to.
    assert (mended.state, mended.previous) == ("deployed", "")
    assert any("altered" in note for note in mended.notes)


@pytest.mark.parametrize("what", ["TensorRT", "GPU", "target"])
def test_the_same_bundle_is_deployed_anew_where_the_machine_is_another(
    deployed: Deploy, doubles: Doubles, first: Path, what: str
) -> None:
    deployed(first)
    if what == "TensorRT":
        doubles.machine = replace(doubles.machine, flavours=(replace(RTX, version="1.8.0"),))
    if what == "GPU":
        doubles.machine = replace(doubles.machine, gpu=replace(GPU, name="Thor"))
    again = deployed(first, target="any-rtx" if what == "target" else None)
    assert (again.state, again.engine) == ("deployed", "built")


def test_another_name_and_an_older_version_are_refused(
    deployed: Deploy, first: Path, second: Path, root: Path, tmp_path: Path
) -> None:
    deployed(second)
    before = now(root)
    refused(InputError, "is older than 1.1.0", deployed, first)
    refused(UsageError, "is the deployment of 'toy'", deployed, make_bundle(tmp_path / "other.mmtrt", name="other"))
    assert now(root) == before
    assert deployed(first, older="allowed").state == "deployed"
    assert now(root) != before


def test_an_engine_out_of_budget_is_rejected(
    deployed: Deploy, doubles: Doubles, first: Path, second: Path, root: Path
) -> None:
    deployed(first)
    before = now(root)
    doubles.outcome = ran("fail")
    result = deployed(second)
    assert (result.state, result.switched, result.parity["verdict"]) == ("rejected", False, "fail")  # type: ignore[index]
    assert now(root) == before
    assert [path.name for path in (root / "versions").iterdir()] == [before.partition("/")[2]]
    # The next one builds afresh.
    doubles.outcome = ran()
    assert deployed(second).engine == "built"


@pytest.mark.parametrize("p50_ms", [2.1, float("nan")])
def test_an_engine_too_slow_is_rejected(
    deployed: Deploy, doubles: Doubles, first: Path, root: Path, p50_ms: float
) -> None:
    doubles.outcome = ran(p50_ms=p50_ms)
    result = deployed(first, max_p50_ms=2.0)
    assert result.state == "rejected"
    assert "2 ms was asked for" in result.notes[-1]
    assert not (root / "current").exists()
    doubles.outcome = ran(p50_ms=2.0)
    assert deployed(first, max_p50_ms=2.0).engine == "cached"


def test_build_only_builds_for_a_later_deploy(deployed: Deploy, doubles: Doubles, first: Path, root: Path) -> None:
    machine = doubles.machine
    doubles.without_gpu()
    built = deployed(first, until="build")
    assert (built.state, built.target, built.engine, built.ran) == ("built, not run", "any-rtx", "built", "")
    assert (built.switched, built.version_directory, doubles.goldens) == (False, "", [])
    assert not (root / "current").exists()
    assert list((root / "versions").iterdir()) == []

    error = refused(MachineError, "GPU: wanted", deployed, first)
    assert "server" in error.message
    assert "any-rtx" in error.message

    doubles.machine = machine
    later = deployed(first, target="any-rtx")
    assert (later.state, later.engine) == ("deployed", "cached")
    assert len(doubles.built) == 1


def test_an_engine_in_the_cache_that_was_altered_is_built_again(
    deployed: Deploy, doubles: Doubles, first: Path, root: Path
) -> None:
    deployed(first, until="build")
    (engine,) = root.glob("cache/engines/*/model.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    result = deployed(first)
    assert (result.engine, len(doubles.built)) == ("built", 2)
    assert any("in the cache is not used" in note for note in result.notes)


def test_a_timing_cache_is_kept_and_seeded_from_the_bundle(deployed: Deploy, doubles: Doubles, tmp_path: Path) -> None:
    cache = {"path": "timing/server.cache", "flavor": "tensorrt", "flavor_version": "10.3.0", "gpu": GPU.name}
    caches = [{**cache, "compute_capability": "8.7"}]
    for version in ("1.0.0", "1.1.0"):
        files = {"timing/server.cache": b"of the bundle"}
        deployed(make_bundle(tmp_path / version, version=version, files=files, timing_caches=caches))
    assert [told["timing"] for told in doubles.built] == [b"of the bundle+timed", b"of the bundle+timed+timed"]


# ------------------------------------------------------------------------------------------------- going back


def test_rollback_goes_back_by_one(deployed: Deploy, first: Path, second: Path, root: Path) -> None:
    one = deployed(first).version_directory
    two = deployed(second).version_directory
    result = roll_back(root)
    assert (result.state, result.version, result.previous, result.switched) == ("rolled back", "1.0.0", two, True)
    assert now(root) == f"versions/{one}"
    assert refusal(root).startswith(f"{root} has no version to go back to")
    # What was gone back from can be deployed again, under a number of its own.
    third = deployed(second)
    assert (third.version_directory[:4], third.previous) == ("0003", one)


def refusal(root: Path) -> str:
    with pytest.raises(InputError) as raised:
        roll_back(root)
    return raised.value.message


@pytest.mark.parametrize(
    "file",
    [
        "model.engine",
        "model.engine.json",
        "deployed.json",
        "bundle/models/fp32/model.onnx",
        "bundle/bundle.json",
        "bundle/more",
    ],
)
def test_rollback_refuses_what_was_altered(deployed: Deploy, first: Path, second: Path, root: Path, file: str) -> None:
    one = deployed(first).version_directory
    deployed(second)
    before = now(root)
    path = root / "versions" / one / file
    path.write_bytes((path.read_bytes() if path.exists() else b"") + b"!")
    assert refusal(root)
    assert now(root) == before


def test_rollback_refuses_an_engine_for_another_tensorrt(
    deployed: Deploy, doubles: Doubles, first: Path, second: Path, root: Path
) -> None:
    deployed(first)
    deployed(second)
    doubles.machine = replace(doubles.machine, flavours=(RTX,))
    with pytest.raises(MachineError, match=r"its engine is for TensorRT 10\.3\.0, and here is none"):
        roll_back(root)


def test_there_is_nothing_to_go_back_to(deployed: Deploy, first: Path, root: Path) -> None:
    assert "there is no deployment" in refusal(root)
    assert not root.exists()
    deployed(first)
    assert "has no version to go back to" in refusal(root)


def test_old_versions_go_but_never_the_one_before(deployed: Deploy, tmp_path: Path, root: Path) -> None:
    bundles = [make_bundle(tmp_path / f"{n}", version=f"1.{n}.0") for n in range(5)]
    names = [deployed(bundle).version_directory for bundle in bundles[:4]]
    assert sorted(path.name for path in (root / "versions").iterdir()) == names[1:]
    roll_back(root)
    roll_back(root)
    assert now(root) == f"versions/{names[1]}"
    last = deployed(bundles[4], keep=1)
    # Of those beside the current one, the one that stood before it.
    assert sorted(path.name for path in (root / "versions").iterdir()) == [names[1], last.version_directory]


# ----------------------------------------------------------------------------------------- whose directory it is


def test_a_second_deploy_at_once_says_so(deployed: Deploy, first: Path, root: Path) -> None:
    deployed(first)
    with (root / ".deploy.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(MachineError, "another deploy to", deployed, first)


def test_a_directory_of_other_things_is_left_alone(deployed: Deploy, first: Path, root: Path) -> None:
    root.mkdir()
    (root / "letter.txt").touch()
    refused(UsageError, "is no directory of a deployment", deployed, first)
    assert [path.name for path in root.iterdir()] == ["letter.txt"]


def test_what_a_dead_deploy_left_is_swept_and_nothing_else(deployed: Deploy, first: Path, root: Path) -> None:
    deployed(first)
    for folder in (root, root / "versions", root / "cache" / "engines"):
        (folder / ".0123456789abcdef.part").mkdir()
        (folder / ".0123456789abcdef.part" / "half").touch()
        (folder / ".mine.part").touch()
    deployed(first)
    assert {path.name for path in root.rglob("*.part")} == {".mine.part"}


def test_a_current_that_is_none_of_ours_is_left_alone(deployed: Deploy, first: Path, root: Path) -> None:
    deployed(first)
    (root / "current").unlink()
    (root / "current").symlink_to("/etc")
    refused(UsageError, "is no link that mmtrt made", deployed, first)
    assert now(root) == "/etc"


def test_the_signer_is_told_and_asked_for_each_time(deployed: Deploy, first: Path, second: Path, root: Path) -> None:
    result = deployed(first, trust=lambda _: "key.pub")
    assert result.signed_by == "key.pub"
    assert deployed(first, trust=lambda _: "other.pub").signed_by == "other.pub"

    def nobody(seal: Sealed) -> str:
        raise MachineError("there is no signer")

    for bundle in (first, second):
        refused(MachineError, "there is no signer", deployed, bundle, trust=nobody)
    deployed(second)
    with pytest.raises(MachineError, match="there is no signer"):
        roll_back(root, nobody)


def test_ctrl_c_leaves_the_old_version(
    deployed: Deploy, doubles: Doubles, first: Path, second: Path, root: Path
) -> None:
    deployed(first)
    before = now(root)
    doubles.outcome = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        deployed(second)
    assert now(root) == before
    assert not list(root.rglob("*.part"))


def test_a_bundle_that_was_altered_changes_nothing(deployed: Deploy, first: Path, second: Path, root: Path) -> None:
    deployed(first)
    before = sorted(root.rglob("*"))
    data = bytearray(second.read_bytes())
    for at in range(0, len(data), 199):
        data[at] ^= 1 << at % 8
        second.write_bytes(data)
        refused(InputError, "is refused", deployed, second)
        data[at] ^= 1 << at % 8
        assert sorted(root.rglob("*")) == before


def test_a_plugin_is_allowed_by_the_machine_s_owner_alone(deployed: Deploy, doubles: Doubles, tmp_path: Path) -> None:
    allowed = SERVER.model_copy(update={"plugins": ("libmine.so",)})
    bundle = make_bundle(tmp_path / "b", plugins=["libmine.so"], targets=(allowed,))
    refused(InputError, "libmine.so", deployed, bundle)
    assert deployed(bundle, plugins=("libmine.so",)).state == "deployed"


def test_an_onnx_with_an_unknown_operator_reaches_no_parser(deployed: Deploy, doubles: Doubles, tmp_path: Path) -> None:
    onnx = an_onnx("1.0.0") + field(7, field(1, field(4, b"EPContext")))
    model = {"path": "models/fp32/model.onnx", "digest": sha256(onnx).hexdigest(), "budget": {}}
    bundle = make_bundle(tmp_path / "b", files={model["path"]: onnx}, models={"fp32": model})
    refused(InputError, "'EPContext'", deployed, bundle)
    assert doubles.built == []


def test_the_disk_must_have_room(
    deployed: Deploy, doubles: Doubles, first: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(first, until="build")
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    refused(MachineError, "free disk space", deployed, first)


def test_targets_that_do_not_fit_are_told_each_with_its_mend(
    deployed: Deploy, doubles: Doubles, tmp_path: Path
) -> None:
    nano = SERVER.model_copy(
        update={"name": "orin-nano", "board": "orin-nano", "gpu_capability": "8.7", "memory_mib": 2048}
    )
    bundle = make_bundle(tmp_path / "b", targets=(nano, SERVER))
    doubles.machine = replace(doubles.machine, flavours=(RTX,), board=Board(memory_free_mib=100))
    error = refused(MachineError, "fits no target", deployed, bundle)
    for told in ("orin-nano: TensorRT: ", "orin-nano: board: ", "orin-nano: free memory: ", "server: TensorRT: "):
        assert told in error.message
    assert "pip install" in str(error.fix)


def test_the_target_that_fits_best_is_chosen_and_told(deployed: Deploy, doubles: Doubles, first: Path) -> None:
    result = deployed(first)
    assert result.target == "server"
    assert any("any-rtx would fit too" in note for note in result.notes)
    assert deployed(first, target="any-rtx").target == "any-rtx"
    error = refused(UsageError, "has no target 'any-rtz'", deployed, first, target="any-rtz")
    assert error.fix == "Did you mean 'any-rtx'?"


def test_the_target_of_this_very_board_comes_first(deployed: Deploy, doubles: Doubles, tmp_path: Path) -> None:
    nano = SERVER.model_copy(update={"name": "orin-nano", "board": "orin-nano", "power_mode": "MAXN"})
    doubles.machine = replace(doubles.machine, board=Board(family="orin-nano", memory_free_mib=6000, power_mode="15W"))
    result = deployed(make_bundle(tmp_path / "b", targets=(SERVER, nano)))
    # Though it warns of the power mode.
    assert (result.target, [one.what for one in result.mismatches]) == ("orin-nano", ["power mode"])
    assert any("since it is for this very board; server would fit too" in note for note in result.notes)


def test_a_directory_is_deployed_as_a_file_is(deployed: Deploy, first: Path, tmp_path: Path) -> None:
    digest = deployed(first).digest
    again = deployed(make_bundle(tmp_path / "folder", tar=False))
    assert (again.state, again.digest) == ("already deployed", digest)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "dtype": "float31", "shape": ["batch", 4]}]}, "no type of numpy's"),
        ({"inputs": [{"name": "x", "dtype": "float32", "shape": [[4]]}]}, "shape"),
        ({"ranges": {"batch": ["1", "2", "8"]}}, "ranges.batch"),
        ({"ranges": {"batch": [1, 2]}}, "ranges.batch"),
        ({"ranges": {"batch": [1, 2, 2**31]}}, "ranges.batch"),
        ({"ranges": {}}, "no range for the size 'batch'"),
        ({"heads": {"y": 1}}, "heads.y"),
        ({"heads": {"y": "oracle"}}, "no kind of output"),
    ],
)
def test_a_spec_that_is_none_is_refused(
    deployed: Deploy, doubles: Doubles, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    bundle = make_bundle(tmp_path / "b", spec={**SPEC.to_json(), **change})
    assert told in refused(InputError, "the bundle's spec", deployed, bundle).message
    assert doubles.built == []


def test_settings_of_a_target_that_are_none_are_refused(deployed: Deploy, tmp_path: Path) -> None:
    targets = {"server": {"precision": "fp32", "settings": {**SERVER.model_dump(mode="json"), "workspace_mib": -1}}}
    refused(InputError, "the bundle's targets: workspace_mib", deployed, make_bundle(tmp_path / "b", told=targets))


@pytest.mark.parametrize(
    ("gemm", "refuses"), [({"fp32": 2}, True), ({"fp32": 1, "int8": 1}, False), ({"": 2}, False), ({}, False)]
)
def test_an_int8_engine_without_int8_is_refused(
    deployed: Deploy, doubles: Doubles, tmp_path: Path, root: Path, gemm: dict[str, int], refuses: bool
) -> None:
    model = {"path": "models/fp32/model.onnx", "digest": onnx_digest("1.0.0"), "budget": {}}
    targets = {"server": {"precision": "int8", "settings": SERVER.model_dump(mode="json")}}
    bundle = make_bundle(tmp_path / "b", models={"int8": model}, told=targets)
    doubles.summary = LayerSummary(kernels=2, moves=0, gemm=gemm)
    if refuses:
        refused(BuildError, "built no INT8 kernel", deployed, bundle)
        assert not list(root.glob("cache/engines/*"))
    else:
        assert deployed(bundle).precision == "int8"
