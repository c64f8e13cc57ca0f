"""Answers one question about each picture that a folder holds or gets, or that a camera gives, until Ctrl-C or SIGTERM.

    python examples/watch_folder.py /opt/vqa pictures/ "is there a red circle?"
    python examples/watch_folder.py /opt/vqa camera:0 "is there a red circle?" --drop

A picture that comes while others wait makes the source wait; with `--drop` the oldest that waits goes for the newest,
which is what a live camera wants. The last lines tell how many were done and dropped, and the latencies.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from threading import Event
from typing import Any

from mmtrt import Session
from mmtrt.errors import MmtrtError
from mmtrt.streaming import camera, run_stream, stopping, watch_folder
from mmtrt.zoo.asking import Vqa


def main() -> int:
    """Print one line a picture, and a summary; return the exit code of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a deployment's directory, or a bundle")
    parser.add_argument("source", help="a folder, or camera:NUMBER")
    parser.add_argument("question")
    parser.add_argument("--onnx", action="store_true", help="run the bundle's ONNX on the CPU")
    parser.add_argument("--drop", action="store_true", help="drop the oldest picture that waits for the newest")
    given = parser.parse_args()
    try:
        with Session(given.model, runs="onnx" if given.onnx else "engine") as session, stopping() as stop:
            vqa = Vqa(session)
            summary = run_stream(
                pictures(given.source, stop),
                lambda picture: say(picture, vqa.ask(picture, given.question)),
                stop=stop,
                when_full="drop oldest" if given.drop else "wait",
                refused=say,
            )
    except MmtrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(summary)
    return 0


def pictures(source: str, stop: Event) -> Any:
    """Return what gives pictures: paths of a folder, or frames of a camera."""
    kind, _, number = source.partition(":")
    if kind == "camera" and number.isdecimal():
        return camera(int(number), stop=stop)
    return watch_folder(Path(source), stop=stop)


def say(picture: Any, told: Any) -> None:
    """Print the answer, or why there is none."""
    line = " ".join(str(told).split())
    print(f"{picture.name if isinstance(picture, Path) else 'frame'}: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
