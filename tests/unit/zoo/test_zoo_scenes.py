from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmtrt.zoo.data import scenes
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, Scene, Thing


def thing(**changes: float) -> Thing:
    return replace(Thing(size=1, colour=0, shape=1, x=32.0, y=32.0, radius=9.0), **changes)


def sampled(count: int) -> list[Scene]:
    return [scenes.sample_scene(np.random.default_rng(seed)) for seed in range(count)]


def test_the_same_seed_gives_the_same_scene_and_pixels() -> None:
    first, again = (scenes.sample_scene(np.random.default_rng(3)) for _ in range(2))
    assert first == again
    np.testing.assert_array_equal(scenes.render(first), scenes.render(again))


def test_other_seeds_give_other_scenes_and_digests() -> None:
    assert len({s.digest() for s in sampled(200)}) == 200


def test_digest_sees_each_part_of_a_scene() -> None:
    base = Scene(things=(thing(), thing(x=10.0)), paint_seed=1)
    others = [
        replace(base, paint_seed=2),
        replace(base, things=base.things[::-1]),
        replace(base, things=base.things[:1]),
        *(replace(base, things=(thing(**{n: v}), base.things[1])) for n, v in CHANGES.items()),
    ]
    assert len({s.digest() for s in (base, *others)}) == 1 + len(others)


CHANGES = {"size": 0, "colour": 1, "shape": 2, "x": 31.0, "y": 31.0, "radius": 8.9}


def test_things_stay_inside_and_visible_and_apart_from_their_own_colour() -> None:
    for scene in sampled(300):
        assert scenes.MIN_THINGS <= len(scene.things) <= scenes.MAX_THINGS
        assert min(scenes.visible_fractions(scene.things)) >= scenes.MIN_VISIBLE
        for i, one in enumerate(scene.things):
            assert one.radius < one.x < 64 - one.radius
            assert one.radius < one.y < 64 - one.radius
            for other in scene.things[:i]:
                distance = np.hypot(one.x - other.x, one.y - other.y)
                assert one.colour != other.colour or distance >= one.radius + other.radius


def test_some_things_are_partly_hidden() -> None:
    assert any(min(scenes.visible_fractions(s.things)) < 0.95 for s in sampled(200))


def test_a_covered_thing_has_no_visible_pixels() -> None:
    below, above = thing(radius=4.0), thing(radius=10.0)
    assert scenes.visible_fractions((below, above)) == [0.0, 1.0]
    assert scenes.visible_fractions((above, below))[1] == 1.0


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_coverage_lies_in_the_circle_around_the_centre(shape: int) -> None:
    cover = scenes.coverage(thing(shape=shape))
    y, x = np.mgrid[:64, :64] + 0.5
    far = np.hypot(x - 32, y - 32) > 9.0 * 1.35 + 1
    assert cover.shape == (64, 64)
    assert cover.dtype == np.float32
    assert cover[31:33, 31:33].min() > 0.9
    assert cover[far].max() == 0
    assert 0 <= cover.min() <= cover.max() <= 1


def test_the_shapes_differ() -> None:
    covers = [scenes.coverage(thing(shape=s)) > 0.5 for s in range(len(SHAPES))]
    for i, one in enumerate(covers):
        for other in covers[:i]:
            assert (one ^ other).sum() > 0.08 * one.sum()


@pytest.mark.parametrize("colour", range(len(COLOURS)))
def test_the_painted_colour_is_nearest_to_its_own_name(colour: int) -> None:
    scene = Scene(things=(thing(colour=colour),), paint_seed=5)
    middle = scenes.render(scene)[:, 28:36, 28:36].astype(float).mean(axis=(1, 2))
    assert int(np.abs(scenes._RGB - middle).sum(axis=1).argmin()) == colour


def test_normalise_follows_the_declared_preprocessing() -> None:
    pixels = np.arange(3 * 64 * 64, dtype=np.uint32).astype(np.uint8).reshape(3, 64, 64)
    got = scenes.normalise(pixels)
    prep = scenes.PREPROCESSING
    for channel in range(3):
        wanted = (pixels[channel] / prep["scale"] - prep["mean"][channel]) / prep["std"][channel]
        np.testing.assert_allclose(got[channel], wanted, rtol=1e-5, atol=1e-5)
    assert got.dtype == np.float32
