from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from mmtrt import errors
from mmtrt.errors import MmtrtError, RecipeError, SampleError, UsageError


def kinds(root: type[MmtrtError] = MmtrtError) -> Iterator[type[MmtrtError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


OURS = [kind for kind in kinds() if kind.__module__ == errors.__name__]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("MmtrtError", 70),
        ("UsageError", 2),
        ("RecipeError", 2),
        ("InputError", 3),
        ("ModelError", 3),
        ("SampleError", 3),
        ("MachineError", 4),
        ("BuildError", 5),
        ("MeasurementError", 1),
    ],
)
def test_each_kind_has_its_exit_code(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code
    assert name in errors.__all__


def test_the_table_above_is_complete() -> None:
    assert len(OURS) == 9
    assert (errors.EXIT_BUDGET, errors.EXIT_INTERRUPTED) == (1, 130)


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("fix", [None, "Do that."])
def test_an_error_crosses_a_process_border_whole(kind: type[MmtrtError], fix: str | None) -> None:
    back = pickle.loads(pickle.dumps(kind("it failed", fix=fix)))  # noqa: S301 -- our own

    assert type(back) is kind
    assert (back.message, back.fix) == ("it failed", fix)


def test_the_text_says_what_and_how_to_mend_it() -> None:
    assert str(SampleError("sample 3 holds NaN", fix="Check it.")) == "sample 3 holds NaN\nCheck it."
    assert str(SampleError("sample 3 holds NaN")) == "sample 3 holds NaN"


def test_a_wrong_recipe_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        raise RecipeError("x")
