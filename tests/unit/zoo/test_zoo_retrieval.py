from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mmtrt.zoo.data import retrieval
from mmtrt.zoo.data.events import event_rng
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES, Scene, sample_scene
from mmtrt.zoo.data.words import TEXT_MAX, decode_question

DRAWN = [sample_scene(np.random.default_rng(seed)) for seed in range(200)]


def told(scene: Scene, words: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    """What a caption says, things as triples; its other words are left out."""
    values = [w for w in words if w not in {"picture", "of", "a"}]
    return Counter(zip(values[::3], values[1::3], values[2::3], strict=True))


def test_a_caption_tells_all_things_and_no_other_in_any_wording() -> None:
    wordings = set()
    for i, scene in enumerate(DRAWN):
        words = retrieval.describe(scene, np.random.default_rng(i))
        things = Counter((SIZES[t.size], COLOURS[t.colour], SHAPES[t.shape]) for t in scene.things)
        assert told(scene, words) == things
        assert len(words) < TEXT_MAX
        wordings.add(("a" in words, "of" in words))
    assert len(wordings) == 3


def test_the_order_of_a_caption_says_nothing() -> None:
    scene = next(s for s in DRAWN if len({t.attributes for t in s.things}) == 5)
    firsts = Counter(retrieval.describe(scene, np.random.default_rng(i))[:3] for i in range(300))
    assert len(firsts) == 5
    assert max(firsts.values()) < 100


def test_scenes_share_an_identity_where_their_things_are_alike() -> None:
    ids: dict[int, set[tuple[tuple[int, int, int], ...]]] = {}
    for scene in DRAWN:
        things = tuple(sorted(t.attributes for t in scene.things))
        ids.setdefault(retrieval.identity(scene), set()).add(things)
        moved = Scene(things=tuple(replace(t, x=t.x + 1) for t in scene.things[::-1]), paint_seed=0)
        assert retrieval.identity(moved) == retrieval.identity(scene)
    assert all(len(things) == 1 for things in ids.values())


def test_the_arrays_are_those_of_the_scene() -> None:
    rng = event_rng("test", 2026, 3)
    scene = sample_scene(rng)
    words = retrieval.describe(scene, rng)
    sample = list(retrieval.samples("test", 4))[3]
    assert decode_question(sample["ids"]) == words
    assert (sample["label.embeddings"] == retrieval.identity(scene)).all()


@pytest.mark.parametrize(("take", "side", "blank"), [("without_text", 1, "mask"), ("without_image", 0, "image")])
def test_what_is_missing_has_no_identity_and_the_other_keeps_its_own(take: str, side: int, blank: str) -> None:
    sample = next(iter(retrieval.samples("test", 1)))
    taken = getattr(retrieval, take)(sample)
    assert not taken[blank].any()
    assert taken["label.embeddings"][side] == -1
    assert taken["label.embeddings"][1 - side] == sample["label.embeddings"][1 - side]
    assert (sample["label.embeddings"] >= 0).all(), "the sample itself is as it was"
