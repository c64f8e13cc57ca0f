"""Sessions on bundles, where there is no GPU: what is refused, what is asked for, and the ONNX on the CPU."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_bundles import engine_row, make_bundle, make_deployment
from tiny_fusion import LABELS, PREPROCESSING

from mmtrt import Session
from mmtrt.bundle.archive import Sealed
from mmtrt.errors import InputError, MachineError, UsageError

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
QUESTION = "What colour is the circle?"
TOLD: dict[str, Any] = {"preprocessing": PREPROCESSING, "labels": LABELS}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own, in which nothing stays."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("tar", [True, False])
def test_pictures_and_questions_go_in_where_the_bundle_tells_how(tiny: Path, tmp_path: Path, tar: bool) -> None:
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, tar=tar, **TOLD)
    with Session(path, runs="onnx") as session, Session(tiny) as model:
        assert session.path == path
        assert session.labels == {name: tuple(names) for name, names in LABELS.items()}
        feeds = session.feeds(image=PICTURE, question=QUESTION)
        told = session.run(feeds)
        wanted = model.run(feeds)
    assert feeds["ids"].tolist() == [[1, 8, 4, 5, 11]]
    assert all(np.array_equal(told[name], wanted[name]) for name in wanted)
    with pytest.raises(InputError, match="closed"):
        session.run(feeds)


def test_a_bundle_is_known_by_its_first_bytes(tiny: Path, tmp_path: Path) -> None:
    with Session(make_bundle(tmp_path / "download", tiny), runs="onnx") as session:
        assert session.preprocessing is None
        assert session.labels == {}
        with pytest.raises(InputError, match="download tells nothing of how its inputs are made"):
            session.feeds(image=PICTURE)


@pytest.mark.parametrize("tar", [True, False])
def test_an_altered_bundle_is_refused(tiny: Path, tmp_path: Path, tar: bool) -> None:
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, tar=tar)
    file = path if tar else path / "models" / "model.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="refused"):
        Session(path, runs="onnx")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"labels": {"answer": ["yes", "no"]}}, "'answer' has 5 classes, and 2 names"),
        ({"labels": {"answer": ["yes", 1]}}, "labels/answer.json of .* is no list of names"),
        ({"preprocessing": {"schema": "other"}}, "preprocessing of .* has another schema"),
        ({"preprocessing": {**PREPROCESSING, "raw": {"image": PREPROCESSING["raw"]["image"]}}}, "makes no input 'ids'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tiny: Path, tmp_path: Path, told: Any, said: str) -> None:
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, **told)
    with pytest.raises(InputError, match=said):
        Session(path, runs="onnx")


def test_without_an_engine_that_fits_the_mend_is_a_deploy(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"holds no engine\n`mmtrt deploy tiny.mmtrt --to DIR`.*Session\('DIR'\)"):
        Session(make_bundle(tmp_path / "tiny.mmtrt", tiny))


def test_each_engine_that_does_not_fit_is_told(tiny: Path, tmp_path: Path) -> None:
    engines = {}
    for name, told in {
        "a": {"flavor_version": "9.9.9.9", "flavor": "tensorrt-rtx", "gpu": None, "compute_capability": None},
        "b": {"gpu": None, "compute_capability": None},
    }.items():
        file = tmp_path / f"{name}.engine"
        file.write_bytes(name.encode())
        Path(f"{file}.json").write_text("{}")
        engines[file] = engine_row(file, **told)
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, engines=engines)
    with pytest.raises(MachineError) as raised:
        Session(path)
    assert "a.engine needs TensorRT-RTX 9.9.9.9" in str(raised.value)
    assert "b.engine does not say which GPU it was built for" in str(raised.value)


def test_an_engine_with_plugins_is_left_to_a_deploy(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.engine"
    file.write_bytes(b"engine")
    Path(f"{file}.json").write_text("{}")
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, engines={file: engine_row(file)}, plugins=["Odd_TRT"])
    with pytest.raises(MachineError, match=r"a\.engine needs the plugins Odd_TRT, which only a deploy allows"):
        Session(path)


@pytest.mark.parametrize(
    ("operator", "domain", "said"),
    [("EPContext", "com.microsoft", "has the operator 'com.microsoft:EPContext'"), ("Relu", "", None)],
)
def test_an_onnx_that_would_load_more_is_refused(tmp_path: Path, operator: str, domain: str, said: str | None) -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], domain=domain)], "g", [x], [y])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString())
    path = make_bundle(tmp_path / "tiny.mmtrt", file)
    if said is None:
        with Session(path, runs="onnx") as session:
            assert session.run(x=np.array([[-1, 2]], dtype=np.float32))["y"].tolist() == [[0, 2]]
    else:
        with pytest.raises(InputError, match=said):
            Session(path, runs="onnx")


def test_a_target_is_asked_for_where_several_differ(tiny: Path, tmp_path: Path) -> None:
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, targets={"board": "int8", "server": "fp16"})
    with pytest.raises(UsageError, match="board runs int8, server runs fp16\nName one: target='board'"):
        Session(path, runs="onnx")
    with pytest.raises(UsageError, match="no target 'bord'\nDid you mean 'board'"):
        Session(path, runs="onnx", target="bord")
    with Session(path, runs="onnx", target="server") as session:
        assert session.inputs


def test_who_signed_is_verified_before_anything_is_read(tiny: Path, tmp_path: Path) -> None:
    def trust(seal: Sealed) -> str:
        raise MachineError(f"nobody signed {seal.path.name}")

    path = make_bundle(tmp_path / "tiny.mmtrt", tiny)
    with pytest.raises(MachineError, match=r"nobody signed tiny\.mmtrt"):
        Session(path, runs="onnx", trust=trust)
    with pytest.raises(UsageError, match="no bundle and no deployment"):
        Session(tiny, trust=trust)


def test_a_directory_to_which_nothing_was_deployed_yet_is_told(tmp_path: Path) -> None:
    (tmp_path / "vqa" / "versions").mkdir(parents=True)
    with pytest.raises(InputError, match=r"neither a bundle nor a deployed version\n.*mmtrt deploy BUNDLE --to"):
        Session(tmp_path / "vqa")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda version: (version / "model.engine.json").unlink(), "has no manifest beside it"),
        (lambda version: (version / "deployed.json").write_text("{}"), "is not what a deploy writes"),
        (lambda version: (version / "deployed.json").unlink(), "can't read"),
        (lambda version: _edit(version / "deployed.json", '"engine_sha256": "', "0"), "not the engine that was deploy"),
        (lambda version: _edit(version / "deployed.json", '"digest": "', "0"), "not the bundle that was deployed"),
        (lambda version: _edit(version / "model.engine.json", '"tensorrt"', " "), "json was altered since"),
        (lambda version: _edit(version / "bundle" / "bundle.json", '"1.0"', " "), "refused"),
        (lambda version: (version / "bundle" / "golden" / "0.json").unlink(), "refused"),
        (lambda version: (version / "bundle" / "more").touch(), "refused"),
        (Path.exists, "was built from another ONNX than the bundle's"),
    ],
)
def test_a_deployment_that_was_changed_is_refused(
    tiny: Path, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    engine = tmp_path / "some.engine"
    engine.write_bytes(b"ftrt" + bytes(60))
    manifest = '{"schema": "mmtrt.engine/1", "flavor": "tensorrt", "engine": {"sha256": "%s"}, "onnx": {"sha256": ""}}'
    from mmtrt.artifacts import file_digest

    Path(f"{engine}.json").write_text(manifest % file_digest(engine))
    deployment = make_deployment(tmp_path / "deployed", tiny, engine)
    damage(deployment / "current")
    with pytest.raises(InputError, match=said):
        Session(deployment)


def _edit(path: Path, behind: str, by: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert behind in text
    path.write_text(text.replace(behind, behind + by), encoding="utf-8")


def test_the_onnx_of_a_deployment_runs_too(tiny: Path, tmp_path: Path) -> None:
    engine = tmp_path / "some.engine"
    engine.write_bytes(b"ftrt" + bytes(60))
    Path(f"{engine}.json").write_text("{}")
    deployment = make_deployment(tmp_path / "deployed", tiny, engine, **TOLD)
    with Session(deployment, runs="onnx") as session:
        assert session.run(session.feeds(image=PICTURE, question=QUESTION))["answer"].shape == (1, 5)
    with pytest.raises(UsageError, match="is deployed for 'board', not for 'server'"):
        Session(deployment, target="server")


def test_an_unknown_kind_of_run_is_told(tiny: Path) -> None:
    with pytest.raises(UsageError, match="runs='torch' is unknown\nKnown are engine, onnx"):
        Session(tiny, runs="torch")  # type: ignore[arg-type]


def test_a_session_that_is_dropped_leaves_nothing(tiny: Path, tmp_path: Path, temporary: Path) -> None:
    session = Session(make_bundle(tmp_path / "tiny.mmtrt", tiny), runs="onnx")
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_uid == os.getuid()
    with pytest.warns(ResourceWarning, match="dropped without close"):
        del session


def test_what_a_killed_session_left_goes_with_the_next_one(tiny: Path, tmp_path: Path, temporary: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny.mmtrt", tiny)
    left = temporary / "mmtrt-session-killed"
    (left / "models").mkdir(parents=True)
    link = temporary / "mmtrt-session-link"
    link.symlink_to(tmp_path)
    with Session(bundle, runs="onnx") as first, Session(bundle, runs="onnx") as second:
        assert not left.exists()
        assert len(list(temporary.iterdir())) == 3
        assert first.inputs == second.inputs
        assert bundle.exists()
    link.unlink()


def test_a_file_that_would_take_the_memory_is_not_read(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmtrt.session.bundles.MANIFEST_BYTES", 16)
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, labels=LABELS)
    with pytest.raises(InputError, match=r"labels/answer\.json has more than 16 bytes"):
        Session(path, runs="onnx")
