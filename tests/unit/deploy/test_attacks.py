"""What a deploy holds to where its directory, or the bundle, was made by somebody who means it ill or by accident."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deployments import make_bundle, refused

from mmtrt.deploy import directory, engines
from mmtrt.errors import UsageError
from mmtrt.results import DeployResult

Deploy = Callable[..., DeployResult]


def test_a_bundle_may_be_named_by_a_link(deployed: Deploy, first: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest.mmtrt"
    link.symlink_to(first)
    assert deployed(link).state == "deployed"
    assert deployed(link).state == "already deployed"


@pytest.mark.parametrize("folder", ["versions", "cache", "cache/engines", "cache/runtime", "cache/timing"])
def test_nothing_is_written_or_removed_through_a_link(
    deployed: Deploy, first: Path, second: Path, root: Path, tmp_path: Path, folder: str
) -> None:
    deployed(first)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for number in range(9):
        (elsewhere / f"{number:032x}").mkdir()
        (elsewhere / f".{number:016x}.part").touch()
    shutil.rmtree(root / folder, ignore_errors=True)
    (root / folder).symlink_to(elsewhere)
    refused(UsageError, "is a link", deployed, second)
    assert len(list(elsewhere.iterdir())) == 18


def test_a_version_that_is_a_link_is_no_version(deployed: Deploy, first: Path, root: Path, tmp_path: Path) -> None:
    version = deployed(first).version_directory
    (tmp_path / "elsewhere").mkdir()
    (root / "versions" / "0007-toy-3.0.0-0123456789ab").symlink_to(tmp_path / "elsewhere")
    found = directory.Directory(root)
    assert [one.path.name for one in found.versions()] == [version]


def test_the_cache_loses_nothing_that_a_deploy_did_not_make(tmp_path: Path) -> None:
    for folder in ("engines", "runtime"):
        (tmp_path / folder).mkdir()
        for name in ("letters", ".k.bin.1.01234567.part", *(f"{number:032x}" for number in range(3))):
            (tmp_path / folder / name).mkdir()
    (tmp_path / "runtime" / f"{9:032x}.bin").touch()
    engines.tidy(tmp_path, 1)
    for folder, kept in (("engines", 1), ("runtime", 1)):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert names >= {"letters", ".k.bin.1.01234567.part"}
        assert len(names) == 2 + kept
    assert (tmp_path / "runtime" / f"{9:032x}.bin").exists()


def test_deploys_that_come_to_nothing_do_not_fill_the_disk(deployed: Deploy, tmp_path: Path, root: Path) -> None:
    for number in range(7):
        bundle = make_bundle(tmp_path / f"{number}", version=f"1.{number}")
        if number % 2:
            assert deployed(bundle, until="build").state == "built, not run"
        else:
            assert deployed(bundle, max_p50_ms=0.1).state == "rejected"
    assert len(list((root / "cache" / "engines").iterdir())) == 4
    # The last one is still there.
    assert deployed(bundle).engine == "cached"


@pytest.fixture
def no_mask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_mask")
def test_nobody_else_may_write_to_what_a_deploy_makes(deployed: Deploy, first: Path, root: Path) -> None:
    deployed(first)
    made = [root, *(path for path in root.rglob("*") if not path.is_symlink())]
    assert [path for path in made if path.stat().st_mode & 0o022] == []
    assert os.umask(0) == 0


def test_each_new_folder_is_synced_into_the_one_above(
    deployed: Deploy, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    deployed(first, directory=tmp_path / "srv" / "models" / "toy")
    wanted = [tmp_path, tmp_path / "srv", tmp_path / "srv" / "models", tmp_path / "srv" / "models" / "toy"]
    assert synced[:4] == wanted


def test_a_disk_that_is_full_at_any_step_leaves_a_version_that_runs(tmp_path: Path) -> None:
    script = Path(__file__).with_name("full_disk.py")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("deployed, new, no parts") == 1
    # The very last thing is to sync the new link: by then it stands.
    assert found.pop("MachineError, the disk is full, new, no parts") == 1
    assert list(found) == ["MachineError, the disk is full, old, no parts"]
    assert found.popitem()[1] > 40
