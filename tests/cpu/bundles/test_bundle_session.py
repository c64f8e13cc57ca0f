"""A session on a bundle as `mmtrt bundle` makes it, where there is no GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tiny_fusion import LABELS, PREPROCESSING

from mmtrt import Session
from mmtrt.errors import MachineError
from mmtrt.preprocess import parse_preprocessing
from mmtrt.runtimes.cuda import gpu
from mmtrt.zoo.asking import Vqa

PICTURE = np.random.default_rng(3).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def test_pictures_and_text_go_in_and_a_name_comes_out(tiny_bundle: Path) -> None:
    with Session(tiny_bundle, runs="onnx") as session:
        assert session.preprocessing == parse_preprocessing(PREPROCESSING, "the test")
        assert session.preprocessing.digest == parse_preprocessing(PREPROCESSING, "the test").digest
        assert session.labels == {name: tuple(names) for name, names in LABELS.items()}
        assert session.precision == "int8"
        answer = Vqa(session).ask(PICTURE, "how many is the square?")
    assert answer.answer in LABELS["answer"]
    assert answer.match is not None


@pytest.mark.skipif(gpu() is not None or find_spec("tensorrt_rtx") is None, reason="a GPU, or no TensorRT-RTX")
def test_its_engine_needs_a_gpu_and_its_onnx_does_not(tiny_bundle: Path) -> None:
    with pytest.raises(MachineError, match=r"needs an NVIDIA GPU.*\n.*runs='onnx'"):
        Session(tiny_bundle)
