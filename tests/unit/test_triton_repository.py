"""A model repository: each model whole, versions side by side, nothing taken away that is not ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmtrt.errors import MachineError, UsageError
from mmtrt.triton.repository import Model, check_repository, write_repository

INTERFACE = {"platform": "onnxruntime_onnx", "max_batch_size": 8, "inputs": [{"name": "x", "dims": (3,)}]}


def model(name: str = "m", version: int = 1, weights: bytes = b"one", **more: object) -> Model:
    made = Model(
        name=name,
        version=version,
        config=f'name: "{name}"\n',
        interface=INTERFACE,
        files={f"{version}/model.onnx": weights, "warmup/0": b"\0"},
    )
    return replace(made, **more)  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_repository(tmp_path / "repository", [model()])
    return tmp_path / "repository"


def test_a_repository_is_made_whole(repository: Path) -> None:
    assert files_of(repository).keys() == {"m/config.pbtxt", "m/mmtrt.json", "m/1/model.onnx", "m/warmup/0"}
    assert [path.name for path in repository.parent.iterdir()] == ["repository"]


def test_a_file_may_be_copied_and_a_version_may_hold_none(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"heavy")
    files = {"3/model.onnx": tmp_path / "weights"}
    write_repository(tmp_path / "repository", [model(version=3, files=files), model("whole", files={})])
    assert (tmp_path / "repository/m/3/model.onnx").read_bytes() == b"heavy"
    assert (tmp_path / "repository/whole/1").is_dir()


def test_others_models_stay(repository: Path) -> None:
    (repository / "theirs" / "1").mkdir(parents=True)
    (repository / "theirs" / "config.pbtxt").write_text("theirs")
    (repository / ".git").mkdir()
    write_repository(repository, [model("n")])
    write_repository(repository, [model("n", weights=b"two")])
    assert (repository / "theirs" / "config.pbtxt").read_text() == "theirs"
    assert (repository / "n/1/model.onnx").read_bytes() == b"two"
    assert sorted(path.name for path in repository.iterdir()) == [".git", "m", "n", "theirs"]


def test_versions_lie_side_by_side(repository: Path) -> None:
    write_repository(repository, [model(version=10, weights=b"ten")])
    write_repository(repository, [model(version=2, weights=b"two")])
    found = files_of(repository / "m")
    assert {name: found[f"{name}/model.onnx"] for name in ("1", "2", "10")} == {"1": b"one", "2": b"two", "10": b"ten"}
    assert list(json.loads(found["mmtrt.json"])["versions"]) == ["1", "2", "10"]
    # One that was taken away by hand does not come back.
    (repository / "m/1/model.onnx").unlink()
    (repository / "m/1").rmdir()
    write_repository(repository, [model(version=2, weights=b"two")])
    assert list(json.loads((repository / "m/mmtrt.json").read_text())["versions"]) == ["2", "10"]


def test_versions_share_one_configuration(repository: Path) -> None:
    before = files_of(repository)
    other = {**INTERFACE, "max_batch_size": 4}
    with pytest.raises(UsageError, match="version 1 with other inputs, outputs or batch"):
        write_repository(repository, [model("first"), model(version=2, interface=other)])
    assert files_of(repository) == before, "the one that fits is not written either"
    # The same number is the same version, made anew.
    write_repository(repository, [model(interface=other)])


def foreign(folder: Path) -> None:
    (folder / "mmtrt.json").unlink()


def added(folder: Path) -> None:
    (folder / "1" / "notes.txt").write_text("mine")


def edited(folder: Path) -> None:
    (folder / "config.pbtxt").write_text("tuned by hand")


def exchanged(folder: Path) -> None:
    (folder / "1" / "model.onnx").write_bytes(b"six")


def linked(folder: Path) -> None:
    (folder / "warmup" / "0").unlink()
    (folder / "warmup" / "0").symlink_to(folder / "config.pbtxt")


def linked_folder(folder: Path) -> None:
    (folder / "2").symlink_to(folder / "1")


def other_marker(folder: Path) -> None:
    (folder / "mmtrt.json").write_text('{"schema": "other"}')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (foreign, "mmtrt did not write"),
        (linked_folder, "holds 2, which mmtrt did not write"),
        (other_marker, "mmtrt did not write"),
        (added, "holds 1/notes.txt, which mmtrt did not write"),
        (edited, "config.pbtxt was changed since mmtrt wrote it"),
        (exchanged, "model.onnx was changed since mmtrt wrote it"),
        (linked, "warmup/0 was changed since mmtrt wrote it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_not_ours_is_not_written_over(repository: Path, change: object, words: str) -> None:
    change(repository / "m")  # type: ignore[operator]
    before = files_of(repository)
    with pytest.raises(UsageError, match=words):
        check_repository(repository, ["m"])
    with pytest.raises(UsageError, match=words):
        write_repository(repository, [model("n"), model()])
    assert files_of(repository) == before


def test_a_folder_of_something_else_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with pytest.raises(UsageError, match="holds 'src'"):
        check_repository(tmp_path, ["m"])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a model repository"):
        check_repository(tmp_path / "file", ["m"])


def test_a_model_behind_a_link_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "n").symlink_to(repository / "m")
    with pytest.raises(UsageError, match="is a link"):
        write_repository(repository, [model("n")])


def test_where_writing_fails_everything_is_as_it_was(repository: Path, tmp_path: Path) -> None:
    before = files_of(repository)
    (tmp_path / "weights").mkdir()
    broken = model(files={"1/model.onnx": tmp_path / "weights"})
    with pytest.raises(MachineError):
        write_repository(repository, [model("n"), broken])
    assert files_of(repository) == before
    assert [path.name for path in repository.iterdir()] == ["m"]
    with pytest.raises(MachineError):
        write_repository(tmp_path / "new", [model("n"), broken])
    assert not (tmp_path / "new").exists()
