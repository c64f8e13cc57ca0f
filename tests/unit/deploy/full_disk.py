"""Deploys to a disk that is full from the N-th thing on that is done to it, for each N, and looks at what is left.

    python full_disk.py FOLDER

It prints one JSON document: by what each deploy ended with, whether it switched and whether it left parts, how many.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deployments import Doubles, make_bundle

from mmtrt.deploy.deploying import deploy
from mmtrt.deploy.request import DeployRequest
from mmtrt.errors import MmtrtError

_TAKES_ROOM = {"os.mkdir", "os.symlink", "open"}
_CHANGES = _TAKES_ROOM | {"os.rename", "os.fsync"}


class FullDisk:
    """Refuses what is done to files below `root` once `left` things were; None is a disk with room."""

    def __init__(self) -> None:
        self.root, self.left = Path("/nowhere"), 0
        self.armed = False
        os.fsync = lambda descriptor: self.hear("os.fsync", (Path(f"/proc/self/fd/{descriptor}").readlink(),))
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed or event not in _CHANGES or not str(arguments[0]).startswith(str(self.root)):
            return
        if event == "open" and not int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        self.left -= 1
        if self.left == 0 or (self.left < 0 and event in _TAKES_ROOM):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))


def main(folder: Path) -> None:
    disk, found = FullDisk(), Counter[str]()
    first, second = make_bundle(folder / "1.mmtrt"), make_bundle(folder / "2.mmtrt", version="1.1.0")
    for last in range(1, 1000):
        disk.root, disk.left = folder / f"DIR-{last}", last
        deploy(DeployRequest(bundle=first, directory=disk.root))
        before = (disk.root / "current").readlink()
        disk.armed = True
        try:
            ended = deploy(DeployRequest(bundle=second, directory=disk.root)).state
        except MmtrtError as error:
            ended = f"{type(error).__name__}, {error.message.partition(':')[0]}"
        disk.armed = False
        switched = "new" if (disk.root / "current").readlink() != before else "old"
        found[f"{ended}, {switched}, {'parts' if list(disk.root.rglob('*.part')) else 'no parts'}"] += 1
        # With room again, the next one does it.
        deploy(DeployRequest(bundle=second, directory=disk.root))
        if json.loads((disk.root / "deployed.json").read_text(encoding="utf-8"))["version"] != "1.1.0":
            raise RuntimeError("the deploy that follows did not switch")
        shutil.rmtree(disk.root)
        if disk.left > 0:
            break
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    with ExitStack() as stack:
        for patch in Doubles().patches():
            stack.enter_context(patch)
        main(Path(sys.argv[1]))
