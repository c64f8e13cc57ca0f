"""Ends a deploy before each thing that it does to the disk, as a power cut would, and looks at what is left.

    python crashes.py FOLDER

What was written and not synced by then is lost: such files end up empty. It prints one JSON document: the version
that stands after each.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deployments import Doubles, make_bundle

from mmtrt.artifacts import file_digest
from mmtrt.bundle.opening import verify
from mmtrt.deploy.deploying import deploy
from mmtrt.deploy.request import DeployRequest

_CUT = 99
_CHANGES = {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir", "open", "os.fsync"}


class Disk:
    """Counts what is done to files below a folder, and ends the process before the `last`-th thing."""

    def __init__(self, root: Path, last: int) -> None:
        self._root = root
        self._left = last
        self._synced = {path.lstat().st_ino for path in root.rglob("*")} if root.exists() else set()
        os.fsync = self.fsync
        sys.addaudithook(self.hear)

    def fsync(self, descriptor: int) -> None:
        self.hear("os.fsync", (Path(f"/proc/self/fd/{descriptor}").readlink(),))
        self._synced.add(os.fstat(descriptor).st_ino)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _CHANGES or not str(arguments[0]).startswith(str(self._root)):
            return
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        self._left -= 1
        if not self._left:
            self.cut()

    def cut(self) -> None:
        for path in self._root.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_ino not in self._synced:
                os.truncate(path, 0)
        os._exit(_CUT)


def crash(root: Path, bundle: Path, last: int) -> bool:
    """Deploy in a process that ends at its `last`-th change; return whether it came to that."""
    child = os.fork()
    if not child:
        Disk(root, last)
        deploy(DeployRequest(bundle=bundle, directory=root))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in {0, _CUT}:
        raise RuntimeError(f"the deploy ended with {code}")
    return code == _CUT


def standing(root: Path) -> str:
    """Return the version that `current` is, every byte of it what it should be; empty where there is none yet."""
    if not (root / "current").is_symlink():
        return ""
    document = json.loads((root / "deployed.json").read_text(encoding="utf-8"))
    if verify(root / "current" / "bundle").digest != document["digest"]:
        raise RuntimeError("the bundle is another one")
    if file_digest(root / "current" / "model.engine") != document["engine_sha256"]:
        raise RuntimeError("the engine is another one")
    json.loads((root / "current" / "model.engine.json").read_text(encoding="utf-8"))
    return str(document["version"])


def main(folder: Path) -> None:
    """Cut a deploy over another one at each moment, and a first one at each third."""
    bundles = [make_bundle(folder / f"{version}.mmtrt", version=version) for version in ("1.0.0", "1.1.0")]
    told: dict[str, list[str]] = {}
    # What it does is simulated here, and a real disk takes its time.
    os.fsync = lambda _: None
    with ExitStack() as stack:
        for patch in Doubles().patches():
            stack.enter_context(patch)
        before = folder / "before"
        for name, bundle, steps in zip(("first", "second"), bundles, (3, 1), strict=True):
            told[name] = []
            last = 0
            while True:
                last += steps
                root = folder / "DIR"
                shutil.rmtree(root, ignore_errors=True)
                if before.exists():
                    shutil.copytree(before, root, symlinks=True)
                if not crash(root, bundle, last):
                    break
                told[name].append(standing(root))
                again = deploy(DeployRequest(bundle=bundle, directory=root))
                if again.state not in {"deployed", "already deployed"} or list(root.rglob("*.part")):
                    raise RuntimeError(f"after cut {last}: {again.state}, {list(root.rglob('*.part'))}")
                if standing(root) != again.version:
                    raise RuntimeError(f"after cut {last} it stands at {standing(root)}")
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(root, before, symlinks=True)
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
