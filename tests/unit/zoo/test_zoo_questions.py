"""The generator's questions, checked by an answerer written apart from it: it reads the words and looks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.zoo.data import questions, words
from mmtrt.zoo.data.batches import BatchSize, draw_question, training_batch
from mmtrt.zoo.data.events import Event, event
from mmtrt.zoo.data.questions import KINDS, PRESUPPOSING, Question
from mmtrt.zoo.data.scenes import COLOURS, SHAPES, SIZES, Scene, Thing, sample_scene

DESCRIPTION = r"((?:small |large )?(?:red |green |blue |yellow |purple |cyan |white )?[a-z]+)"
NUMBERS = ("zero", "one", "two", "three", "four", "five")


class UnmatchedError(Exception):
    """The question speaks of one thing that is not there."""


class UndecidedError(Exception):
    """The question can't be answered as it stands: an ambiguous description or two things too close."""


def right_answer(scene: Scene, words: tuple[str, ...]) -> str:
    """The right answer; raises UnmatchedError, UndecidedError, or LookupError for words it can't read."""
    text = " ".join(words)
    for pattern, reply in RULES:
        found = re.fullmatch(pattern.replace("#", DESCRIPTION), text)
        if found:
            return reply(scene, *found.groups())
    raise LookupError(text)


def those(scene: Scene, description: str) -> list[Thing]:
    *adjectives, noun = description.split()
    noun = {"crosses": "cross"}.get(noun, noun if noun == "cross" else noun.removesuffix("s"))
    assert noun == "thing" or noun in SHAPES, noun
    kept = []
    for thing in scene.things:
        says = {SIZES[thing.size], COLOURS[thing.colour], SHAPES[thing.shape], "thing"}
        if says.issuperset([*adjectives, noun]):
            kept.append(thing)
    return kept


def the(scene: Scene, description: str) -> Thing:
    found = those(scene, description)
    if not found:
        raise UnmatchedError(description)
    if len(found) > 1:
        raise UndecidedError(description)
    return found[0]


def colour(scene: Scene, a: str) -> str:
    return COLOURS[the(scene, a).colour]


def shape(scene: Scene, a: str) -> str:
    return SHAPES[the(scene, a).shape]


def size(scene: Scene, a: str) -> str:
    return SIZES[the(scene, a).size]


def number(scene: Scene, a: str) -> str:
    return NUMBERS[len(those(scene, a))]


def exists(scene: Scene, a: str) -> str:
    return "yes" if those(scene, a) else "no"


def compared(scene: Scene, a: str, b: str) -> str:
    first, second = len(those(scene, a)), len(those(scene, b))
    return "more" if first > second else "fewer" if first < second else "equal"


def claims(truth: str) -> Callable[[Scene, str, str], str]:
    return lambda scene, a, b: "yes" if compared(scene, a, b) == truth else "no"


def side(scene: Scene, a: str, b: str, axis: str) -> str:
    thing, place, margin = the(scene, a), 32.0, 5.0
    if b != "middle":
        place, margin = getattr(the(scene, b), axis), 10.0
    offset = getattr(thing, axis) - place
    if abs(offset) < margin:
        raise UndecidedError(a)
    low, high = ("left", "right") if axis == "x" else ("above", "below")
    return low if offset < 0 else high


def is_beside(scene: Scene, a: str, claim: str, b: str) -> str:
    axis = "x" if claim in {"left", "right"} else "y"
    return "yes" if side(scene, a, b, axis) == claim else "no"


RULES: tuple[tuple[str, Callable[..., str]], ...] = (
    (r"what colour is the #", colour),
    (r"what is the colour of the #", colour),
    (r"which colour does the # have", colour),
    (r"please tell me the colour of the # in this picture", colour),
    (r"what shape is the #", shape),
    (r"what is the shape of the #", shape),
    (r"which shape does the # have", shape),
    (r"please tell me the shape of the # in this picture", shape),
    (r"what size is the #", size),
    (r"is the # small or large", size),
    (r"which size does the # have", size),
    (r"please tell me the size of the # in this picture", size),
    (r"count the #", number),
    (r"how many # are there", number),
    (r"how many # can you see", number),
    (r"what number of # does this picture show", number),
    (r"is there a #", exists),
    (r"can you see a # in this picture", exists),
    (r"does this picture show a #", exists),
    (r"is it true that you can see at least one # in view", exists),
    (r"(?:are there|is it true that there are) more # than #", claims("more")),
    (r"(?:are there|is it true that there are) fewer # than #", claims("fewer")),
    (r"(?:are there|is it true that there are) as many # as #", claims("equal")),
    (r"(?:are there )?more fewer or equal # than #", compared),
    (r"is the # (?:to the )?(left|right|above|below) (?:of )?the #", is_beside),
    (r"is the # left or right of the #", lambda scene, a, b: side(scene, a, b, "x")),
    (r"is the # above or below the #", lambda scene, a, b: side(scene, a, b, "y")),
)


SCENE = Scene(
    things=(
        Thing(size=1, colour=0, shape=0, x=15.0, y=15.0, radius=9.0),
        Thing(size=0, colour=2, shape=1, x=45.0, y=20.0, radius=5.0),
        Thing(size=0, colour=2, shape=0, x=40.0, y=50.0, radius=5.0),
    ),
    paint_seed=0,
)


@cache
def events() -> tuple[Event, ...]:
    return tuple(event("validation", i) for i in range(1000))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("what colour is the large circle", "red"),
        ("what is the shape of the red thing", "circle"),
        ("is the blue circle small or large", "small"),
        ("how many small blue things are there", "two"),
        ("count the crosses", "zero"),
        ("is there a large square", "no"),
        ("are there more blue things than red things", "yes"),
        ("more fewer or equal circles than squares", "more"),
        ("is the large thing to the left of the middle", "yes"),
        ("is the blue circle above or below the middle", "below"),
        ("is the red thing right of the square", "no"),
        ("is the square above or below the blue circle", "above"),
    ],
)
def test_the_oracle_itself(text: str, wanted: str) -> None:
    assert right_answer(SCENE, tuple(text.split())) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "what colour is the cross",
        "is the green circle above the middle",
        "is the green circle above the square",
        "is the square above the green circle",
    ],
)
def test_the_oracle_sees_a_missing_thing(text: str) -> None:
    with pytest.raises(UnmatchedError):
        right_answer(SCENE, tuple(text.split()))


def test_the_oracle_sees_an_ambiguous_thing() -> None:
    with pytest.raises(UndecidedError):
        right_answer(SCENE, ("what", "colour", "is", "the", "circle"))


def agrees(scene: Scene, question: Question) -> bool:
    if question.matched:
        return right_answer(scene, question.words) == question.answer
    with pytest.raises(UnmatchedError):
        right_answer(scene, question.words)
    return question.phrase == ()


def test_every_event_agrees_with_the_oracle() -> None:
    assert all(agrees(e.scene, e.question) for e in events())


@given(st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_training_questions_agree_with_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    for _ in range(8):
        assert agrees(scene, draw_question(scene, rng))


def test_a_phrase_holds_the_answer_and_is_true_of_the_scene() -> None:
    for e in events():
        q = e.question
        if not q.matched:
            continue
        assert words.phrase_answer(q.kind, q.phrase) == q.answer
        if q.kind in {"colour", "shape", "size"}:
            article, size, colour, shape = q.phrase
            assert article == "a"
            assert any(
                (SIZES[t.size], COLOURS[t.colour], SHAPES[t.shape]) == (size, colour, shape) for t in e.scene.things
            )


def test_phrases_survive_encoding() -> None:
    for e in events():
        ids = words.encode_phrase(e.question.phrase)
        assert ids.shape == (words.PHRASE_LENGTH,)
        if e.question.matched:
            assert words.decode_phrase(ids) == e.question.phrase
        else:
            assert (ids == words.IGNORED).all()


def test_the_vocabularies_are_closed_and_without_doubles() -> None:
    for vocabulary in (words.QUESTION_WORDS, words.ANSWERS, words.PHRASE_WORDS):
        assert len(set(vocabulary)) == len(vocabulary)
    asked = {w for e in events() for w in e.question.words}
    assert asked <= set(words.QUESTION_WORDS)
    assert {e.question.answer for e in events() if e.question.matched} == set(words.ANSWERS)


def test_an_unknown_word_is_an_error() -> None:
    with pytest.raises(KeyError, match="unicorn"):
        words.encode_question(["count", "the", "unicorn"])


def test_questions_survive_encoding_and_their_lengths_span_the_declared_range() -> None:
    lengths = set()
    for e in events():
        ids = words.encode_question(e.question.words)
        assert words.decode_question(ids) == e.question.words
        assert ids[0] == words.START
        lengths.add(len(ids))
    assert min(lengths) == words.TEXT_MIN
    assert max(lengths) == words.TEXT_MAX


def test_no_wording_is_longer_than_the_model_takes() -> None:
    longest = {"{a}": 3, "{as}": 3, "{b}": 3, "{bs}": 3}
    for text in questions.templates():
        told = 2 if {"colour", "shape", "size"} & set(text.split()) or "small or large" in text else 3
        length = 1 + sum(min(longest.get(w, 1), told) for w in text.split())
        assert words.TEXT_MIN - 1 <= length <= words.TEXT_MAX, text


def test_answers_are_even_within_each_kind() -> None:
    drawn = [event("train", i).question for i in range(3000)]
    most = {"colour": 0.2, "shape": 0.31, "size": 0.57, "count": 0.23, "existence": 0.56}
    for kind, limit in most.items():
        answers = Counter(q.answer for q in drawn if q.kind == kind and q.matched)
        assert max(answers.values()) / answers.total() < limit, kind


def test_a_relation_is_to_the_middle_or_to_another_thing() -> None:
    asked = [event("train", i).question for i in range(5000)]
    relations = [q for q in asked if q.kind == "relation"]
    to_the_middle = [q for q in relations if q.words[-1] == "middle"]
    assert 0.4 < len(to_the_middle) / len(relations) < 0.6
    assert (
        {q.matched for q in to_the_middle} == {q.matched for q in relations if q not in to_the_middle} == {True, False}
    )


def test_either_thing_of_a_relation_may_be_the_missing_one() -> None:
    missing: Counter[tuple[bool, ...]] = Counter()
    for i in range(4, 3000, 5):
        e = event("test", i)
        found = re.fullmatch(rf"is the {DESCRIPTION} .*the {DESCRIPTION}", " ".join(e.question.words))
        if found and e.question.kind == "relation" and found[2] != "middle":
            missing[tuple(bool(those(e.scene, d)) for d in found.groups())] += 1
    assert set(missing) == {(True, False), (False, True)}
    assert min(missing.values()) > 20


def test_easy_questions_come_first() -> None:
    size = BatchSize(scenes=8, questions=8)
    shares = []
    for first in (0, 1000):
        made = [training_batch(0, step, size) for step in range(first, first + 10)]
        sides = [words.ANSWERS.index(side) for side in ("left", "right", "above", "below")]
        shares.append(np.mean([np.isin(batch["answer"], sides).mean() for batch in made]))
    assert shares[1] > 1.5 * shares[0]


def test_the_same_wording_has_several_answers() -> None:
    asked: dict[tuple[str, ...], Counter[str | None]] = {}
    for e in events():
        asked.setdefault(e.question.words, Counter())[e.question.answer] += 1
    often = [c for c in asked.values() if c.total() >= 8]
    assert len(often) > 5
    assert sum(max(c.values()) for c in often) < 0.7 * sum(c.total() for c in often)


def test_kinds_take_turns_and_only_presupposing_ones_are_unmatched() -> None:
    kinds = Counter(e.question.kind for e in events() if e.question.matched)
    assert set(kinds) == set(KINDS)
    assert max(kinds.values()) - min(kinds.values()) <= 2
    assert {e.question.kind for e in events() if not e.question.matched} == set(PRESUPPOSING)
