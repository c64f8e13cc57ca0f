"""Questions on scenes: seven kinds, a closed vocabulary, answers, answer phrases. Needs numpy only.

A question's target answer is drawn first, evenly, and then a wording and things are looked for that give it:
so the answers of a kind are balanced, and neither the words alone nor the picture alone says much.

Four kinds (colour, shape, size, relation) presuppose things: "the red circle" says that there is exactly one.
A pair of question and picture is *unmatched* where a thing that the question presupposes is not there at all;
pictures with two or more of such things are never used, so the match is decidable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from mmtrt.zoo.data.scenes import COLOURS, IMAGE_SIZE, SHAPES, SIZES, Scene, Thing

KINDS: Final = ("colour", "shape", "size", "count", "existence", "comparison", "relation")
PRESUPPOSING: Final = ("colour", "shape", "size", "relation")
NUMBERS: Final = ("zero", "one", "two", "three", "four", "five")
MIDDLE: Final = "middle"
"""What a relation may ask about in place of a second thing: the middle of the picture."""

MARGIN: Final = {MIDDLE: 5.0, "thing": 10.0}
"""Pixels, at the least, along the axis asked about, from a thing's centre to the middle or to another's centre."""

Ref = tuple[int | None, int | None, int | None]
"""A description: indices of size, colour and shape, None where it says nothing."""

ALL: Final = (0, 1, 2)
_VALUES: Final = (SIZES, COLOURS, SHAPES)
_DIRECTIONS: Final = (("left", "right"), ("above", "below"))
_TEMPLATES: Final = {
    "colour": (
        "what colour is the {a}",
        "what is the colour of the {a}",
        "which colour does the {a} have",
        "please tell me the colour of the {a} in this picture",
    ),
    "shape": (
        "what shape is the {a}",
        "what is the shape of the {a}",
        "which shape does the {a} have",
        "please tell me the shape of the {a} in this picture",
    ),
    "size": (
        "what size is the {a}",
        "is the {a} small or large",
        "which size does the {a} have",
        "please tell me the size of the {a} in this picture",
    ),
    "count": (
        "count the {as}",
        "how many {as} are there",
        "how many {as} can you see",
        "what number of {as} does this picture show",
    ),
    "existence": (
        "is there a {a}",
        "can you see a {a} in this picture",
        "does this picture show a {a}",
        "is it true that you can see at least one {a} in view",
    ),
    "more": ("are there more {as} than {bs}", "is it true that there are more {as} than {bs}"),
    "fewer": ("are there fewer {as} than {bs}", "is it true that there are fewer {as} than {bs}"),
    "equal": ("are there as many {as} as {bs}", "is it true that there are as many {as} as {bs}"),
    "compare": ("are there more fewer or equal {as} than {bs}", "more fewer or equal {as} than {bs}"),
    "left": ("is the {a} left of the {b}", "is the {a} to the left of the {b}"),
    "right": ("is the {a} right of the {b}", "is the {a} to the right of the {b}"),
    "above": ("is the {a} above the {b}",),
    "below": ("is the {a} below the {b}",),
    "left or right": ("is the {a} left or right of the {b}",),
    "above or below": ("is the {a} above or below the {b}",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Words of a question, and what is right for one scene; an unmatched one has no answer and no phrase."""

    kind: str
    words: tuple[str, ...]
    answer: str | None
    phrase: tuple[str, ...]

    @property
    def matched(self) -> bool:
        """Whether all that it presupposes is there."""
        return self.answer is not None


Asker = Callable[[Scene, int, np.random.Generator], "Question | None"]


def ask(scene: Scene, kind: str, target: int, rng: np.random.Generator) -> Question | None:
    """Ask a question of this kind that the scene answers; None where it can't be asked for this target.

    The target, any integer >= 0, settles the answer and the form; keep it while trying other scenes,
    and the answers of the kind come out even.
    """
    return _ASKERS[kind](scene, target, rng)


def ask_unmatched(scene: Scene, kind: str, target: int, rng: np.random.Generator) -> Question | None:
    """Ask, in a presupposing kind, about a thing that the scene lacks; None where none was found."""
    missing = _absent(scene, rng, pattern_of(_told(kind), target))
    if missing is None:
        return None
    template, refs = kind, [missing]
    if kind == "relation":
        form = _relation_form(int(rng.integers(32)))
        template = form.template
        if form.between:
            other = refer(scene, pattern_of(ALL, int(rng.integers(7))), pick(scene, rng))
            if other is None:
                return None
            refs.insert(int(rng.integers(2)), other)
    return Question(kind=kind, words=word(template, rng, *refs), answer=None, phrase=())


def matches(thing: Thing, ref: Ref) -> bool:
    """Whether a description fits a thing."""
    return all(r is None or r == a for r, a in zip(ref, thing.attributes, strict=True))


def count(scene: Scene, ref: Ref) -> int:
    """How many things of a scene a description fits."""
    return sum(matches(t, ref) for t in scene.things)


def _told(kind: str) -> tuple[int, ...]:
    """Attributes that a question of this kind may mention: all but one that it asks for."""
    asked = {"size": 0, "colour": 1, "shape": 2}.get(kind)
    return tuple(i for i in ALL if i != asked)


def pattern_of(attributes: tuple[int, ...], target: int) -> tuple[int, ...]:
    """Choose one of the non-empty subsets of the attributes; consecutive targets go round them all."""
    bits = 1 + target % (2 ** len(attributes) - 1)
    return tuple(a for i, a in enumerate(attributes) if bits >> i & 1)


def _describe(thing: Thing, pattern: tuple[int, ...]) -> Ref:
    size, colour, shape = (v if i in pattern else None for i, v in enumerate(thing.attributes))
    return (size, colour, shape)


def pick(scene: Scene, rng: np.random.Generator) -> Thing:
    """Draw one of the things of a scene."""
    return scene.things[int(rng.integers(len(scene.things)))]


def refer(scene: Scene, pattern: tuple[int, ...], thing: Thing) -> Ref | None:
    """Describe a thing by these attributes, if that fits no other."""
    ref = _describe(thing, pattern)
    return ref if count(scene, ref) == 1 else None


def _absent(scene: Scene, rng: np.random.Generator, pattern: tuple[int, ...]) -> Ref | None:
    """Describe what is not there: mostly a thing of the scene with one attribute changed."""
    values = list(_describe(pick(scene, rng), pattern))
    changed = pattern[int(rng.integers(len(pattern)))]
    for i in pattern if rng.random() < 0.3 else (changed,):
        values[i] = int(rng.integers(len(_VALUES[i])))
    ref: Ref = (values[0], values[1], values[2])
    return ref if count(scene, ref) == 0 else None


def name_of(ref: Ref) -> str:
    """Put a description in words, e.g. "large red circle" or "small thing"."""
    size, colour, shape = ref
    noun = "thing" if shape is None else SHAPES[shape]
    parts = ["" if size is None else SIZES[size], "" if colour is None else COLOURS[colour], noun]
    return " ".join(p for p in parts if p)


def plural(noun: str) -> str:
    """Several of it: "small crosses" of "small cross"."""
    return noun + ("es" if noun.endswith("ss") else "s")


def word(template: str, rng: np.random.Generator, a: Ref, b: Ref | None = None) -> tuple[str, ...]:
    """Put a question in words: one of the wordings of its template, with the descriptions in their places."""
    choices = _TEMPLATES[template]
    text = choices[int(rng.integers(len(choices)))]
    first, second = name_of(a), MIDDLE if b is None else name_of(b)
    names = {"a": first, "as": plural(first), "b": second, "bs": plural(second)}
    return tuple(text.format(**names).split())


def _ask_attribute(kind: str) -> Asker:
    """Asker of one attribute of one thing; its phrase is the whole description, "a large red circle"."""
    told = _told(kind)
    (asked,) = set(ALL) - set(told)

    def asker(scene: Scene, target: int, rng: np.random.Generator) -> Question | None:
        value, rest = target % len(_VALUES[asked]), target // len(_VALUES[asked])
        things = [t for t in scene.things if t.attributes[asked] == value]
        if not things:
            return None
        thing = things[int(rng.integers(len(things)))]
        ref = refer(scene, pattern_of(told, rest), thing)
        if ref is None:
            return None
        phrase = ("a", SIZES[thing.size], COLOURS[thing.colour], SHAPES[thing.shape])
        return Question(kind=kind, words=word(kind, rng, ref), answer=_VALUES[asked][value], phrase=phrase)

    return asker


def _ask_count(scene: Scene, target: int, rng: np.random.Generator) -> Question | None:
    wanted = target % len(NUMBERS)
    bits = int(rng.integers(8))
    pattern = tuple(i for i in ALL if bits >> i & 1)
    if wanted:
        ref: Ref | None = _describe(pick(scene, rng), pattern)
    else:
        ref = _absent(scene, rng, pattern_of(ALL, bits))
    if ref is None or count(scene, ref) != wanted:
        return None
    return _short("count", word("count", rng, ref), NUMBERS[wanted])


def _ask_existence(scene: Scene, target: int, rng: np.random.Generator) -> Question | None:
    pattern = pattern_of(ALL, target // 2)
    if target % 2:
        ref: Ref | None = _describe(pick(scene, rng), pattern)
    else:
        ref = _absent(scene, rng, pattern)
    if ref is None:
        return None
    return _short("existence", word("existence", rng, ref), ("no", "yes")[target % 2])


def _ask_comparison(scene: Scene, target: int, rng: np.random.Generator) -> Question | None:
    """Two groups that differ in one attribute; "more, fewer or equal" three ways, or a yes/no question."""
    pattern = pattern_of(ALL, int(rng.integers(7)))
    a = _describe(pick(scene, rng), pattern)
    values = list(a)
    changed = pattern[int(rng.integers(len(pattern)))]
    values[changed] = int(rng.integers(len(_VALUES[changed])))
    b: Ref = (values[0], values[1], values[2])
    if a == b:
        return None
    if rng.random() < 0.5:
        a, b = b, a
    truth = int(np.sign(count(scene, a) - count(scene, b)))
    claim, form = target % 3 - 1, target // 3 % 4
    name = ("fewer", "equal", "more")[claim + 1]
    if form < 2:
        return _short("comparison", word("compare", rng, a, b), name) if truth == claim else None
    if (truth == claim) != (form == 2):
        return None
    return _short("comparison", word(name, rng, a, b), "yes" if form == 2 else "no")


class _RelationForm(NamedTuple):
    """How a relation is asked: on which axis (0 x, 1 y) and side (0 left or above) the truth is, and of what."""

    template: str
    axis: int
    side: int
    which: bool
    """It asks which side, "left or right"; else it claims one, truly in half of the cases."""
    between: bool
    """It asks about two things; else about one thing and the middle of the picture."""


def _relation_form(target: int) -> _RelationForm:
    """One of the 32 forms: half of them ask which side, and half are about two things."""
    axis, side, claim = target % 2, target // 2 % 2, target // 4 % 2
    which, between = target // 8 % 2 == 1, target // 16 % 2 == 1
    template = " or ".join(_DIRECTIONS[axis]) if which else _DIRECTIONS[axis][claim]
    return _RelationForm(template, axis, side, which, between)


def _ask_relation(scene: Scene, target: int, rng: np.random.Generator) -> Question | None:
    form = _relation_form(target)
    thing, other = pick(scene, rng), pick(scene, rng) if form.between else None
    refs = [refer(scene, pattern_of(ALL, int(rng.integers(7))), t) for t in (thing, other) if t is not None]
    centre = (IMAGE_SIZE / 2, IMAGE_SIZE / 2) if other is None else (other.x, other.y)
    offset = (thing.x, thing.y)[form.axis] - centre[form.axis]
    far = abs(offset) >= MARGIN["thing" if form.between else MIDDLE]
    if None in refs or not far or (offset > 0) != (form.side == 1):
        return None
    truth = _DIRECTIONS[form.axis][form.side]
    answer = truth if form.which else "yes" if form.template == truth else "no"
    return _short("relation", word(form.template, rng, *(r for r in refs if r is not None)), answer)


def _short(kind: str, words: tuple[str, ...], answer: str) -> Question:
    return Question(kind=kind, words=words, answer=answer, phrase=(answer,))


_ASKERS: Final[dict[str, Asker]] = {
    "colour": _ask_attribute("colour"),
    "shape": _ask_attribute("shape"),
    "size": _ask_attribute("size"),
    "count": _ask_count,
    "existence": _ask_existence,
    "comparison": _ask_comparison,
    "relation": _ask_relation,
}


def templates() -> tuple[str, ...]:
    """All wordings, with `{a}`, `{as}`, `{b}` and `{bs}` where a description goes."""
    return tuple(text for choices in _TEMPLATES.values() for text in choices)
