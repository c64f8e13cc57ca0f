"""Patients: three slices of a scan, in which there may be a nodule, and a record with missing values. numpy only.

What is found depends on both: the nodule's size and edge are seen in the scan alone, the risk is in the record alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mmtrt.zoo.data.batches import Batch, BatchSize
from mmtrt.zoo.data.collating import collate
from mmtrt.zoo.data.events import DATA_SEED, Sample, event_rng

SIZE: Final = 64
SLICES: Final = 3
COLUMNS: Final = (
    *("age", "sex", "smoking", "marker a", "marker b"),
    *("weight", "pressure", "haemoglobin", "temperature", "protein"),
)
"""Columns of the record; all are standardised, sex is -1 or 1."""

STAGES: Final = ("none", "low", "raised", "high")
LENGTHS: Final[dict[str, int]] = {}
"""Nothing has a length of its own."""

_MEAN: Final = 0.35
_STD: Final = 0.2
PREPROCESSING: Final = {"slices": SLICES, "size": [SIZE, SIZE], "mean": _MEAN, "std": _STD}
"""How densities in 0..1 become the model's input: `(density - mean) / std`; the record's values are standardised."""

IGNORED: Final = -1

_MISSING_SHARE: Final = 0.15
_WITHOUT_TABLE_EVERY: Final = 16
_NODULE_SHARE: Final = 0.7
_RADIUS: Final = (3.0, 12.0)
_NOISE: Final = 0.25
"""Of what is found, so much is in neither."""

_WEIGHTS: Final = np.array([0.40, 0.0, 0.35, 0.55, 0.40, 0.0, 0.0, -0.25, 0.0, 0.20])
_SHARED: Final = np.array([0.5, 0.0, 0.3, 0.4, 0.4, 0.3, 0.5, -0.4, 0.2, 0.4])
"""How much of a value is a patient's general state: what is missing can be guessed from the rest, in part."""

_STAGE_EDGES: Final = (-1.0, 0.0, 1.0)
_AXIS: Final = np.arange(SIZE, dtype=np.float32) + 0.5


def sample_record(rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw the values of a record, all of them, `(10,)`."""
    values = _SHARED * rng.standard_normal() + np.sqrt(1 - _SHARED**2) * rng.standard_normal(len(COLUMNS))
    values[COLUMNS.index("sex")] = rng.choice((-1.0, 1.0))
    return np.asarray(values, dtype=np.float32)


def risk(record: NDArray[np.float32]) -> float:
    """What a whole record says: a weighted sum, and a marker that counts for one sex more than for the other."""
    crossed = record[COLUMNS.index("sex")] * record[COLUMNS.index("marker b")]
    return float(record @ _WEIGHTS + 0.3 * crossed)


def suspicion(radius: float, spiky: bool) -> float:  # noqa: FBT001
    """What a scan says: the larger a nodule the worse, and worse with a spiky edge; radius 0 is none."""
    if not radius:
        return -1.2
    return 1.6 * (radius - _RADIUS[0]) / (_RADIUS[1] - _RADIUS[0]) - 0.6 + 0.8 * spiky


def scan(radius: float, spiky: bool, rng: np.random.Generator) -> NDArray[np.float32]:  # noqa: FBT001
    """Three slices `(3, 64, 64)`, normalised: soft tissue, two vessels, and a nodule, largest in the middle."""
    slices = np.stack([_tissue(rng) for _ in range(SLICES)])
    dx, dy = _offsets(rng.uniform(15, SIZE - 15), rng.uniform(15, SIZE - 15))
    distance, density, spikes = np.hypot(dx, dy), float(rng.uniform(0.3, 0.45)), int(rng.integers(6, 10))
    rim = 1 + 0.3 * np.sin(spikes * np.arctan2(dy, dx)) if spiky else np.ones_like(distance)
    for index, share in enumerate((float(rng.uniform(0.6, 0.85)), 1.0, float(rng.uniform(0.6, 0.85)))):
        if radius:
            slices[index] += density * np.clip(0.5 + radius * share * rim - distance, 0, 1)
    slices += 0.04 * rng.standard_normal(slices.shape, dtype=np.float32)
    return np.asarray((np.clip(slices, 0, 1) - _MEAN) / _STD, dtype=np.float32)


def _tissue(rng: np.random.Generator) -> NDArray[np.float32]:
    """One slice without a nodule, `(64, 64)`: slow waves, and two vessels across."""
    ground = np.full((SIZE, SIZE), rng.uniform(0.22, 0.35), dtype=np.float32)
    for _ in range(2):
        fx, fy, phase = (float(v) for v in rng.uniform((-0.2, -0.2, 0), (0.2, 0.2, 6.28)))
        ground += 0.04 * np.cos(fx * _AXIS[None, :] + fy * _AXIS[:, None] + np.float32(phase))
    dx, dy = _offsets(SIZE / 2, SIZE / 2)
    for _ in range(2):
        slope, at = float(rng.uniform(0, np.pi)), float(rng.uniform(-20, 20))
        across = np.abs(dx * np.float32(np.sin(slope)) - (dy * np.float32(np.cos(slope)) + np.float32(at)))
        ground += np.float32(0.25) * np.clip(np.float32(1.6) - across, 0, 1)
    return ground


def _offsets(x: float, y: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return _AXIS[None, :] - np.float32(x), _AXIS[:, None] - np.float32(y)


def draw(rng: np.random.Generator) -> Sample:
    """One patient, see `samples`."""
    radius = float(rng.uniform(*_RADIUS)) if rng.random() < _NODULE_SHARE else 0.0
    spiky = bool(rng.random() < 0.5)
    record = sample_record(rng)
    total = suspicion(radius, spiky) + risk(record) + _NOISE * float(rng.standard_normal())
    present = rng.random(len(COLUMNS)) >= _MISSING_SHARE
    return {
        "image": scan(radius, spiky, rng),
        "table": np.where(present, record, 0).astype(np.float32),
        "table_mask": present.astype(np.int64),
        "label.finding": np.array(total > 0, dtype=np.int64),
        "label.stage": np.array(np.searchsorted(_STAGE_EDGES, total), dtype=np.int64),
    }


def samples(split: str = "calibration", count: int = 256, seed: int = DATA_SEED) -> Iterator[Sample]:
    """Yield the first `count` patients of a split as samples without a batch axis.

    `image` (3, 64, 64) float32; `table` (10,) float32, 0 where missing; `table_mask` (10,) int64, 1 where a value is
    there; `label.finding` () int64, 0 or 1; `label.stage` () int64, of STAGES. In the calibration split, one patient
    in sixteen has no record and one has no scan: what is found then is as before, and not to be told (-1).
    """
    for index in range(count):
        sample = draw(event_rng(split, seed, index))
        yield _varied(sample, index) if split == "calibration" else sample


def training_batch(seed: int, step: int, size: BatchSize) -> Batch:
    """Make the batch of one step: `size.scenes` patients."""
    rng = event_rng("train", seed, step)
    return collate([draw(rng) for _ in range(size.scenes)], LENGTHS)


def without_table(sample: Sample) -> Sample:
    """Take the record away: all values are missing."""
    return _unlabelled(sample) | {name: np.zeros_like(sample[name]) for name in ("table", "table_mask")}


def without_image(sample: Sample) -> Sample:
    """Take the scan away: zeros are left."""
    return _unlabelled(sample) | {"image": np.zeros_like(sample["image"])}


def _unlabelled(sample: Sample) -> Sample:
    return sample | {name: np.array(IGNORED, dtype=np.int64) for name in ("label.finding", "label.stage")}


def _varied(sample: Sample, index: int) -> Sample:
    turn = index % _WITHOUT_TABLE_EVERY
    if turn == _WITHOUT_TABLE_EVERY - 3:
        return without_table(sample)
    return without_image(sample) if turn == _WITHOUT_TABLE_EVERY - 5 else sample
