from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from mmtrt.zoo.data import surround
from mmtrt.zoo.data.batches import BatchSize
from mmtrt.zoo.data.world import NOTHING, Box, Camera, cast, picture

BOX = Box(kind=0, x=4.0, y=1.0, length=1.0, width=0.8, height=1.0, base=0.0, yaw=0.4, paint=(200.0, 40.0, 40.0))


def camera(**changed: float) -> Camera:
    sizes = {"x": 0.2, "y": -0.1, "z": 1.5, "yaw": 0.3, "pitch": 0.2, "focal": 28.0} | changed
    return Camera(**sizes, rows=32, columns=64)


def test_rays_and_projection_are_of_the_same_camera() -> None:
    one = camera()
    rays = one.rays().reshape(32, 64, 3)
    for row, column in ((3, 5), (16, 32), (30, 60)):
        point = np.array([one.x, one.y, one.z]) + 3.7 * rays[row, column]
        across, down, depth = one.projection() @ [*point, 1.0]
        assert (across / depth, down / depth) == pytest.approx((column + 0.5, row + 0.5), abs=1e-3)
        assert depth == pytest.approx(3.7, abs=1e-4)


def test_a_ray_ends_at_the_box_or_the_ground_or_nowhere() -> None:
    turned = Box(kind=0, x=4, y=0, length=2, width=1, height=1, base=0.0, yaw=0, paint=(0, 0, 0))
    rays = np.array([[1, 0, 0], [1, 0, -0.5], [1, 1, -0.5], [1, 0, 1], [-1, 0, 0]], dtype=np.float32)
    hits = cast((0, 0, 0.9), rays, [turned])
    assert hits.far.tolist() == pytest.approx([3.0, 1.8, 1.8, np.inf, np.inf])
    assert hits.box.tolist() == [0, NOTHING, NOTHING, NOTHING, NOTHING]
    higher = cast((0, 0, 3.0), np.array([[1, 0, -0.5]], dtype=np.float32), [turned])
    assert (higher.far[0], higher.bright[0]) == (4.0, 1.25)  # its top


def test_a_box_is_where_the_matrix_says() -> None:
    one = camera()
    pixels = picture(one, one.look([BOX]), [BOX], np.random.default_rng(0), noise=0.0)
    across, down, depth = one.projection() @ [BOX.x, BOX.y, 0.5, 1.0]
    red, green, _ = pixels[:, int(down / depth), int(across / depth)].astype(int)
    assert red > 2 * green


def test_the_splits_share_no_event() -> None:
    assert len(set(surround.SPLITS.values())) == len(surround.SPLITS)
    drawn = {
        split: {surround.event(surround.event_rng(split, surround.DATA_SEED, i)) for i in range(200)}
        for split in surround.SPLITS
    }
    drawn["batches"] = {surround.event(surround.event_rng("train", 0, i)) for i in range(200)}
    assert len(set.union(*drawn.values())) == sum(len(one) for one in drawn.values())
    with pytest.raises(KeyError, match="tset"):
        next(surround.samples("tset", 1))


def test_samples_are_the_same_each_time_and_begin_alike() -> None:
    for one, two in zip(surround.samples("test", 4), surround.samples("test", 6), strict=False):
        assert one.keys() == two.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, two[name])


def test_calibration_has_events_with_something_missing_and_the_test_split_has_not() -> None:
    def missing(split: str) -> tuple[int, int, int]:
        drawn = list(surround.samples(split, 64))
        dark = [int((one["images"] == 0).all(axis=(1, 2, 3)).sum()) for one in drawn]
        return dark.count(1), dark.count(4), sum(not one["pillar_mask"].any() for one in drawn)

    assert missing("calibration") == (8, 4, 4)
    assert missing("test") == (0, 0, 0)


def test_pillars_hold_the_points_of_their_cell_and_repeat_them() -> None:
    cloud = np.array([[0.1, 0.1, 1, 0.5], [0.3, 0.2, 2, 0.5], [-7.9, 7.9, 0, 0.1]], dtype=np.float32)
    made = surround.pillars(cloud, np.random.default_rng(0))
    assert made["pillar_mask"].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert made["cells"][:2].tolist() == [0 * 32 + 31, 16 * 32 + 16]
    assert set(made["pillars"][1, :, 2].tolist()) == {1.0, 2.0}
    np.testing.assert_allclose(made["pillars"][0, :, 4:], [[-0.3, 0.3]] * 8, atol=1e-5)
    assert not made["pillars"][2:].any()


def test_beyond_the_most_pillars_the_highest_stay() -> None:
    cloud = np.array([[i * 0.5 - 5, 0, i % 7, 0.5] for i in range(20)], dtype=np.float32)
    made = surround.pillars(cloud, np.random.default_rng(0), most=8)
    assert len(made["cells"]) == len(set(made["cells"].tolist())) == 8
    assert made["pillars"][:, :, 2].min() >= 4


def test_labels_are_where_the_points_are() -> None:
    """A thing that is not dark has its points around its label."""
    near = total = 0
    for sample in surround.samples("test", 20):
        high = sample["pillars"][:, :, 2].max(axis=1) > 0.3
        places = np.stack(np.divmod(sample["cells"][high], surround.GRID), axis=1)
        for kind, *place in sample["label.heatmap"]:
            if kind >= 0 and len(places):
                total += 1
                near += bool((np.linalg.norm(places - place, axis=1) < 3).any())
    assert total > 40
    assert 0.6 < near / total < 0.95  # the others are dark, or hidden


def test_a_training_batch_is_padded_and_follows_from_its_step() -> None:
    size = BatchSize(scenes=12, questions=1)
    one, two = surround.training_batch(0, 3, size), surround.training_batch(0, 3, size)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
        assert len(value) == 12
    most = one["pillar_mask"].sum(axis=1).max()
    rows = one["pillars"].shape[1]
    assert most <= rows < most + surround.PILLARS_MIN
    assert one["pillars"].shape == (12, rows, surround.PILLAR_POINTS, surround.FEATURES)


def test_the_data_need_no_framework() -> None:
    code = "import sys, mmtrt.zoo.data.surround, mmtrt.zoo.data.driving; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"False"
