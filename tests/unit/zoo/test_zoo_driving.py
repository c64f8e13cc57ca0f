from __future__ import annotations

import numpy as np
import pytest

from mmtrt.zoo.data import driving
from mmtrt.zoo.data.batches import BatchSize


def events(split: str, count: int) -> list[driving.Event]:
    return [driving.event(driving.event_rng(split, driving.DATA_SEED, i)) for i in range(count)]


def test_the_splits_share_no_event() -> None:
    assert len(set(driving.SPLITS.values())) == len(driving.SPLITS)
    drawn = [one.other for split in driving.SPLITS for one in events(split, 200)]
    drawn += [driving.event(driving.event_rng("train", 0, i)).other for i in range(200)]
    assert len(set(drawn)) == len(drawn)
    with pytest.raises(KeyError, match="tset"):
        next(driving.samples("tset", 1))


def test_classes_are_about_even_and_keep_off_each_other() -> None:
    drawn = events("test", 600)
    arrival, motion = (np.bincount(column) / 600 for column in zip(*(one.labels for one in drawn), strict=True))
    assert (arrival > 0.15).all()
    assert len(arrival) == 4
    assert (motion > 0.27).all()
    assert len(motion) == 3
    off = [abs(one.arrival_s - edge) / edge for one in drawn for edge in driving.EDGES_S]
    assert min(off) > 0.08


def test_poses_end_here_and_undo_what_was_driven() -> None:
    one = events("test", 1)[0]
    where, yaw = driving.poses(one)
    assert where[-1].tolist() == [0.0, 0.0]
    assert yaw[-1] == 0.0
    steps = np.linalg.norm(np.diff(where, axis=0), axis=1)
    np.testing.assert_allclose(steps, (one.speed * one.lapse)[1:])
    np.testing.assert_allclose(np.diff(yaw), (one.turn * one.lapse)[1:])


def test_motions_are_of_the_world_and_not_of_the_picture() -> None:
    drawn = events("test", 60)
    assert {(driving.MOTIONS[one.labels[1]], float(np.sign(one.crossing))) for one in drawn} == {
        ("left", 1.0),
        ("still", 0.0),
        ("right", -1.0),
    }
    # What stands still is seen to move: the car turns.
    assert all(abs(float((one.turn * one.lapse)[1:].sum())) > 0 for one in drawn if one.crossing == 0)


def test_the_other_is_shown_where_its_bearing_says() -> None:
    batch = driving.frame_batch(0, 0, BatchSize(scenes=40, questions=1))
    assert 40 < len(batch["frames"]) <= 80
    off = []
    for frame, (angle, distance) in zip(batch["frames"], batch["bearings"], strict=True):
        if np.exp(distance) < 10:
            # Ground and sky are grey, the other is not.
            columns = np.nonzero((np.ptp(frame, axis=0) > 0.8).any(axis=0))[0]
            off.append(columns.mean() + 0.5 - (16 - 24 * np.tan(angle)))
    assert len(off) > 10
    assert np.median(np.abs(off)) < 1


def test_what_dropped_out_is_zero_and_now_is_last() -> None:
    for sample in driving.samples("calibration", 48):
        assert not sample["frames"][sample["frame_mask"] == 0].any()
        assert not sample["sensors"][sample["sensor_mask"] == 0].any()
        assert driving.STEPS_MIN <= len(sample["frame_mask"]) <= driving.STEPS_MAX
    short = driving.to_sample(events("test", 1)[0])
    long = driving.padded(short)
    steps = len(short["frame_mask"])
    assert len(long["frame_mask"]) == driving.STEPS_MAX
    np.testing.assert_array_equal(long["sensors"][-steps:], short["sensors"])
    assert not long["sensor_mask"][:-steps].any()


def test_calibration_has_padded_events_and_such_without_frames_or_readings() -> None:
    drawn = list(driving.samples("calibration", 64))
    assert sum(not one["frame_mask"].any() for one in drawn) == 4
    assert sum(not one["sensor_mask"].any() for one in drawn) == 4
    empty = [not (one["frame_mask"][0] or one["sensor_mask"][0].any()) for one in drawn]
    assert sum(empty) >= 6


def test_a_training_batch_is_padded_and_follows_from_its_step() -> None:
    size = BatchSize(scenes=10, questions=1)
    one, two = driving.training_batch(0, 3, size), driving.training_batch(0, 3, size)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
        assert len(value) == 10
    assert one["frames"].shape[1:] == (one["frame_mask"].shape[1], 3, driving.SIZE, driving.SIZE)
