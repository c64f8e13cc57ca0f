"""What a calibration set lacks is told, and a set that lacks nothing is passed in silence."""

from __future__ import annotations

import numpy as np

from mmtrt.samples.variety import Variety
from mmtrt.tensors import ModelSpec, TensorSpec

SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=("batch", 3, 4, 4)),
        TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
    ),
    outputs=(),
    modalities={"image": ("image",), "text": ("ids",)},
    ranges={"batch": (1, 8, 32), "text": (4, 12, 20)},
)


def told(*lengths: int, blank: str | None = None) -> list[str]:
    variety = Variety(SPEC)
    for length in lengths:
        variety.see({"image": np.ones((3, 4, 4), np.float32), "ids": np.ones(length, np.int64)})
    if blank is not None:
        for name in ("image", "ids"):
            sample = {"image": np.ones((3, 4, 4), np.float32), "ids": np.ones(12, np.int64)}
            if blank in {name, "each"}:
                sample[name] = np.zeros_like(sample[name])
            variety.see(sample)
    return variety.notes()


def test_a_set_with_all_sorts_is_passed_in_silence() -> None:
    assert told(4, 12, 20, blank="each") == []
    assert told(8, 16, blank="each") == []


def test_lengths_that_lack_are_told() -> None:
    assert told(12, blank="each") == [
        "no sample is short: 'text' starts at 12, the model takes 4 to 20",
        "no sample is long: 'text' ends at 12, the model takes 4 to 20",
    ]


def test_a_modality_that_never_lacks_is_told() -> None:
    assert told(4, 20, blank="image") == ["no sample lacks text (all zeros): ranges are those of complete events"]
    assert told(4, 20) == ["no sample lacks image or text (all zeros): ranges are those of complete events"]


def test_no_samples_no_notes() -> None:
    assert told() == []
