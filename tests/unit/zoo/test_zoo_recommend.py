from __future__ import annotations

from collections import Counter

import numpy as np

from mmtrt.zoo.data import recommend
from mmtrt.zoo.data.recommend import DEPARTMENTS, GOODS, ITEMS, WORDS, Taste
from mmtrt.zoo.data.scenes import COLOURS

TASTE = Taste(colour=2, departments=(4, 1, 7))


def rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_a_history_shows_the_taste() -> None:
    where = {int(i): place for place, i in np.ndenumerate(recommend._SHUFFLED)}
    assert sorted(where) == list(range(1, ITEMS))
    bought = [where[int(i)] for rng in rngs(200) for i in recommend.sample_history(TASTE, rng)]
    colours, departments = Counter(b[0] for b in bought), Counter(b[1] for b in bought)
    assert colours.most_common(1)[0][0] == TASTE.colour
    assert [d for d, _ in departments.most_common()] == list(TASTE.departments)


def test_what_is_clicked_suits_in_both_and_what_is_not_fails_in_one_at_least() -> None:
    for rng in rngs(300):
        colour, department = recommend.sample_offer(TASTE, True, rng)
        assert (colour, department) in {(2, 4), (2, 1)}
    wrong: Counter[tuple[bool, bool]] = Counter()
    for rng in rngs(600):
        colour, department = recommend.sample_offer(TASTE, False, rng)
        wrong[colour != TASTE.colour, department not in TASTE.departments] += 1
    assert set(wrong) == {(True, False), (False, True), (True, True)}
    assert min(wrong.values()) > 60


def test_a_title_names_goods_of_the_department_among_words_that_say_nothing() -> None:
    for i, rng in enumerate(rngs(100)):
        words = [WORDS[j] for j in recommend.title(i % len(DEPARTMENTS), rng)]
        named = [w for w in words if w in GOODS]
        assert len(named) == 1
        assert named[0].startswith(DEPARTMENTS[i % len(DEPARTMENTS)])
        assert recommend.TEXT_MIN <= len(words) <= recommend.TEXT_MAX


def test_neither_colour_nor_department_alone_decides() -> None:
    # Half of what is not clicked has the right colour or the right department.
    suits = [recommend.sample_offer(TASTE, False, rng) for rng in rngs(600)]
    assert 0.3 < np.mean([colour == TASTE.colour for colour, _ in suits]) < 0.5
    assert 0.3 < np.mean([department in TASTE.departments for _, department in suits]) < 0.5


def test_the_colours_of_pictures_are_those_of_scenes() -> None:
    seen = np.stack([recommend.picture(c, np.random.default_rng(1)) for c in range(len(COLOURS))])
    assert seen.shape == (len(COLOURS), 3, 64, 64)
    means = seen.max(axis=(2, 3))
    assert len({tuple(np.round(m, 1)) for m in means}) == len(COLOURS)


def test_labels_are_about_even_and_mostly_follow_the_taste() -> None:
    drawn = list(recommend.samples("test", 400))
    assert 0.4 < np.mean([s["label.click"] for s in drawn]) < 0.6
    where = {int(i): place for place, i in np.ndenumerate(recommend._SHUFFLED)}
    right = [
        Counter(where[int(i)][1] for i in s["history"]).most_common(1)[0][0] == s["label.department"] for s in drawn
    ]
    assert 0.45 < np.mean(right) < 0.75
