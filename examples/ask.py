"""Asks a model a question about a picture.

python examples/ask.py /opt/vqa scene.png "what colour is the large circle?"
python examples/ask.py vqa.mmtrt scene.png "how many squares are there?" --onnx

The model is a deployment or a bundle; PyTorch is not needed. Pictures are PPM, BMP or NPY, all others with Pillow.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmtrt import Session
from mmtrt.errors import MmtrtError
from mmtrt.zoo.asking import Vqa


def main() -> int:
    """Print the answer; return the exit code of what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a deployment's directory, or a bundle")
    parser.add_argument("picture", type=Path)
    parser.add_argument("question")
    parser.add_argument("--onnx", action="store_true", help="run the bundle's ONNX on the CPU")
    given = parser.parse_args()
    try:
        with Session(given.model, runs="onnx" if given.onnx else "engine") as session:
            told = Vqa(session).ask(given.picture, given.question)
    except MmtrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
