"""Resizing held against PyTorch's, which was written by others and has its coordinates in single precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from mmtrt.preprocess.resizing import Resize, resized

THEIRS: dict[Resize, dict[str, object]] = {
    "nearest": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear_align_corners": {"mode": "bilinear", "align_corners": True},
    "bilinear_antialias": {"mode": "bilinear", "align_corners": False, "antialias": True},
}


# Of these sizes no centre of a row lies between two pixels, where single precision takes either.
@pytest.mark.parametrize("size", [(64, 64), (32, 50), (120, 130), (1, 1), (96, 17)])
@pytest.mark.parametrize("method", THEIRS)
def test_it_is_what_pytorch_does(method: Resize, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 130, 3), dtype=np.uint8)
    theirs = interpolate(torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32)), size, **THEIRS[method])
    np.testing.assert_allclose(resized(pixels, size, method), theirs[0].numpy().transpose(1, 2, 0), atol=0.01)
