"""Each kind of hard case finds a fault that the samples don't show, and what is right passes all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from refusals import Cli, assert_told
from toys import Toy, samples

from mmtrt.artifacts import StageCache
from mmtrt.onnx_files import BUDGET_KEY, set_metadata
from mmtrt.parity.stress import KINDS
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.sides import open_subject
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.results import CheckResult, StressResult
from mmtrt.samples import SampleSet

node = graphs.node


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    return Toy().saved(tmp_path_factory.mktemp("toys") / "good.onnx")


def checked(
    candidate: str, reference: str, folder: Path, given: SampleSet | None = None, **fields: object
) -> CheckResult:
    context = Context(cache=StageCache(folder / "cache"))
    return check_files(
        context,
        CheckRequest(candidate=candidate, against=reference, samples=given or samples(), **fields),  # type: ignore[arg-type]
    )


def failing(result: CheckResult) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case in result.stress:
        if case.verdict == "fail":
            found.setdefault(case.kind, []).append(case.name)
    return found


def only(result: CheckResult, kind: str, name: str) -> StressResult:
    (found,) = [case for case in result.stress if (case.kind, case.name) == (kind, name)]
    return found


def test_what_is_right_passes_each_kind(good: str, tmp_path: Path) -> None:
    result = checked(good, good, tmp_path)
    assert {case.kind for case in result.stress} == set(KINDS)
    assert {case.verdict for case in result.stress} == {"pass"}
    assert result.verdict == "pass"


def mixing(toy: Toy) -> Toy:
    """Rows change places, as where a reshape takes the batch for another axis."""
    return toy.then(
        node("Slice", [toy.output, "from1", "end", "axis0"], "tail"),
        node("Slice", [toy.output, "from0", "to1", "axis0"], "head"),
        node("Concat", ["tail", "head"], "rolled", axis=0),
        from0=np.array([0]),
        from1=np.array([1]),
        to1=np.array([1]),
        end=np.array([2**31 - 1]),
        axis0=np.array([0]),
    )


def dropping(toy: Toy) -> Toy:
    """Dropout that was left on, in one number of ten thousand."""
    return toy.then(
        node("Dropout", [toy.output, "ratio", "training"], "dropped"),
        node("Mul", ["dropped", "little"], "scaled"),
        node("Add", [toy.output, "scaled"], "noisy"),
        ratio=np.array(0.5, np.float32),
        training=np.array(True),
        little=np.array(1e-7, np.float32),
    )


def batch_statistics(toy: Toy) -> Toy:
    """A little of the batch's mean in each row: BatchNorm in training mode has all of it."""
    return toy.then(
        node("ReduceMean", [toy.output, "axis0"], "average", keepdims=1),
        node("Mul", ["average", "little"], "share"),
        node("Add", [toy.output, "share"], "leaking"),
        axis0=np.array([0]),
        little=np.array(3e-4, np.float32),
    )


def clipping(toy: Toy) -> Toy:
    """A range of -2 to 2 where calibration saw four times as much."""
    return toy.replacing(
        "image_in",
        node("Clip", ["image", "low", "high"], "pixels"),
        low=np.array(-2, np.float32),
        high=np.array(2, np.float32),
    )


def same_words(toy: Toy) -> Toy:
    """Not a number where all words are the same: a variance of 0 under a division."""
    return toy.then(
        node("ReduceMean", ["words", "second"], "centre", keepdims=1),
        node("Sub", ["words", "centre"], "off"),
        node("ReduceL2", ["off", "axes"], "spread", keepdims=0),
        node("Div", ["spread", "spread"], "is1"),
        node("Unsqueeze", ["is1", "last"], "factor"),
        node("Mul", [toy.output, "factor"], "broken"),
        axes=np.array([1, 2]),
    )


FAULTS: dict[str, Callable[[Toy], Toy]] = {
    "corner": lambda toy: toy.wrong_where(batch=12, text=1),
    "batch": lambda toy: toy.wrong_where(batch=12, text=4),
    "length": lambda toy: toy.wrong_where(batch=3, text=1),
    "masked": lambda toy: toy.without("count_floor"),
    "zeroed": lambda toy: toy.without("norm_floor"),
    "determinism": dropping,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_one_kind_alone_can_see(kind: str, good: str, tmp_path: Path) -> None:
    result = checked(FAULTS[kind](Toy()).saved(tmp_path / "bad.onnx"), good, tmp_path)
    assert {output.verdict for output in result.outputs.values()} == {"pass"}
    assert set(failing(result)) == {kind}
    assert result.verdict == "fail"


def test_rows_that_change_places_fail_wherever_there_is_more_than_one(good: str, tmp_path: Path) -> None:
    result = checked(mixing(Toy()).saved(tmp_path / "bad.onnx"), good, tmp_path)
    assert result.outputs["y"].verdict == "pass"
    assert failing(result)["batch"] == ["batch = 12"]
    assert failing(result)["batch-invariance"] == ["alone and in a batch"]
    assert result.verdict == "fail"


def test_a_variance_of_nothing_is_found_where_an_input_is_constant(good: str, tmp_path: Path) -> None:
    # A text of one word has no variance either: it is left out, as are the sizes that have one.
    result = checked(same_words(Toy()).saved(tmp_path / "bad.onnx"), good, tmp_path, stress=("constant",))
    assert failing(result) == {"constant": ["text"]}
    assert result.outputs["y"].verdict == "pass"
    assert "non_finite" in only(result, "constant", "text").outputs["y"].why[0]


def test_a_leak_from_row_to_row_is_found_below_the_samples_budget(good: str, tmp_path: Path) -> None:
    bad = batch_statistics(Toy()).saved(tmp_path / "bad.onnx")
    result = checked(bad, good, tmp_path, budget={"sqnr_db": 40.0})
    assert result.outputs["y"].verdict == "pass"
    assert set(failing(result)) == {"batch-invariance"}


def test_a_range_that_is_too_small_is_found_at_the_ends_of_what_calibration_saw(good: str, tmp_path: Path) -> None:
    # Without the unit length, which hides a factor.
    right = Toy().without("unit").saved(tmp_path / "right.onnx")
    bad = clipping(Toy().without("unit")).saved(
        tmp_path / "bad.onnx", precision="fp16", inputs={"image": [-8.0, 8.0], "words": [-2.0, 2.0]}
    )
    result = checked(bad, right, tmp_path)
    assert result.outputs["y"].verdict == "pass"
    assert set(failing(result)) == {"extremes"}
    assert "image" in " ".join(failing(result)["extremes"])
    assert only(result, "extremes", "all image at its highest").note == "image from -8 to 8, as calibration saw it"
    # At the ends of the samples alone it is not to be seen.
    untold = clipping(Toy().without("unit")).saved(tmp_path / "untold.onnx")
    assert checked(untold, right, tmp_path).verdict == "pass"


def test_a_conversion_tells_the_ranges_of_its_inputs(good: str, tmp_path: Path) -> None:
    made = tmp_path / "made.int8.onnx"
    convert(Path(good), made, PrecisionOptions(precision="int8", coverage="wide"), samples=samples())
    shown = [sample["words"] for sample in samples()]
    assert open_subject(str(made)).calibrated["words"] == (min(w.min() for w in shown), max(w.max() for w in shown))
    result = checked(str(made), good, tmp_path, samples([2]), stress=("extremes",))
    assert {case.note.rpartition(", ")[2] for case in result.stress} == {"as calibration saw it"}
    assert result.stress[0].name == "image from end to end"


# ------------------------------------------------------------------------------------- where nobody can tell


def test_what_is_not_finite_in_the_reference_is_told_and_not_failed(good: str, tmp_path: Path) -> None:
    broken = Toy().without("count_floor").saved(tmp_path / "broken.onnx")
    result = checked(good, broken, tmp_path)
    case = only(result, "masked", "text")
    assert case.verdict == case.outputs["y"].verdict == "reference not finite"
    assert result.verdict == "pass"
    assert failing(result) == {}


def test_a_reference_that_is_not_finite_in_part_does_not_hide_what_is_wrong_beside_it(tmp_path: Path) -> None:
    """Wholly masked, one column is not a number; another is wrong in the candidate, and only then."""

    def adding(extra: list[float]) -> Toy:
        toy = Toy()
        return toy.then(
            node("ReduceMax", ["seen", "second"], "any", keepdims=1),
            node("Equal", ["any", "zero"], "none"),
            node("Where", ["none", "extra", "zero"], "added"),
            node("Add", [toy.output, "added"], "end"),
            zero=np.array(0, np.float32),
            extra=np.array(extra, np.float32),
        )

    reference = adding([np.nan, 0, 0]).saved(tmp_path / "reference.onnx")
    wrong = checked(adding([np.nan, 5, 0]).saved(tmp_path / "wrong.onnx"), reference, tmp_path)
    assert failing(wrong) == {"masked": ["text"]}
    assert only(wrong, "masked", "text").outputs["y"].why[0].startswith("sqnr_db")
    # What the candidate says where the reference says nothing is its own affair.
    finite = checked(adding([7, 0, 0]).saved(tmp_path / "finite.onnx"), reference, tmp_path)
    assert only(finite, "masked", "text").verdict == "reference not finite"
    assert finite.verdict == "pass"


def test_rows_of_the_reference_that_depend_on_the_batch_are_not_judged(tmp_path: Path) -> None:
    leaking = batch_statistics(Toy()).saved(tmp_path / "leaking.onnx")
    result = checked(leaking, leaking, tmp_path)
    case = only(result, "batch-invariance", "alone and in a batch")
    assert case.verdict == "not run"
    assert "depend on the batch" in case.note
    assert result.verdict == "pass"


# --------------------------------------------------------------------------------------------- the command line


def command(candidate: str, reference: str, folder: Path) -> tuple[str, ...]:
    for index, sample in enumerate(samples()):
        (folder / "set").mkdir(exist_ok=True)
        np.savez(folder / "set" / f"{index:05}.npz", **sample)
    return ("check", candidate, "--against", reference, "--samples", str(folder / "set"))


def test_a_failing_case_is_the_exit_code_and_is_told(good: str, tmp_path: Path, cli: Cli) -> None:
    bad = Toy().without("count_floor").saved(tmp_path / "bad.onnx")
    asked = command(bad, good, tmp_path)
    said = cli(*asked)
    assert said.code == 1
    assert "stress masked, text: output 'y': non_finite 24 is above 0" in " ".join(said.out.split())
    assert cli(*asked, "--stress", "corner", "--stress", "zeroed").code == 0
    assert cli(*asked, "--skip-stress", "masked").code == 0
    none = cli(*asked, "--stress", "none", "--json")
    assert none.code == 0
    assert json.loads(none.out)["stress"] == []


def test_a_budget_for_one_kind_is_held_there_alone(good: str, tmp_path: Path, cli: Cli) -> None:
    asked = command(good, good, tmp_path)
    said = cli(*asked, "--json", "--budget", "masked/max_abs=1e-9", "--budget", "zeroed/y:max_rel=0.5")
    assert said.code == 0, said.err
    found = {(case["kind"], case["name"]): case["outputs"]["y"]["budget"] for case in json.loads(said.out)["stress"]}
    assert found["masked", "text"] == {"non_finite": 0, "max_abs": 1e-9}
    assert found["zeroed", "image"] == {"non_finite": 0, "max_rel": 0.5}
    assert found["constant", "image"] == {"non_finite": 0, "sqnr_db": 70}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget", "maskd/sqnr_db=10"], ("'maskd/sqnr_db'", "Did you mean 'masked'?")),
        (["--budget", "maskd/y:sqnr_db=10"], ("'maskd/y:sqnr_db'", "Did you mean 'masked'?")),
        (["--budget", "masked/sqnr=10"], ("no known metric", "'sqnr_db'")),
        (["--budget", "masked/z:sqnr_db=10"], ("names no output",)),
        (["--budget", "masked/accuracy_drop=0"], ("no labels",)),
        (["--budget", "masked/sqnr_db=10", "--skip-stress", "masked"], ("not run", "--stress masked")),
        (["--stress", "corners"], ("no stress 'corners'", "'corner'")),
        (["--stress", "none", "--stress", "corner"], ("none",)),
    ],
)
def test_what_names_no_hard_case_is_refused(
    flags: list[str], words: tuple[str, ...], good: str, tmp_path: Path, cli: Cli
) -> None:
    assert_told(cli(*command(good, good, tmp_path), *flags), 2, *words)


def test_a_carried_budget_has_its_part_for_hard_cases(good: str, tmp_path: Path) -> None:
    proto = onnx.load(good)
    set_metadata(proto, {BUDGET_KEY: '{"sqnr_db": 30.0, "masked/y:max_abs": 0.5}'})
    onnx.save(proto, str(tmp_path / "carrying.onnx"))
    result = checked(str(tmp_path / "carrying.onnx"), good, tmp_path)
    assert result.outputs["y"].budget == {"non_finite": 0.0, "sqnr_db": 30.0}
    assert only(result, "masked", "text").outputs["y"].budget == {"non_finite": 0.0, "max_abs": 0.5}
    assert only(result, "zeroed", "text").outputs["y"].budget == {"non_finite": 0.0, "sqnr_db": 20.0}


def test_the_stored_verdict_is_of_the_same_cases_and_budgets(good: str, tmp_path: Path) -> None:
    first = checked(good, good, tmp_path)
    assert not first.cached
    assert checked(good, good, tmp_path).cached
    assert not checked(good, good, tmp_path, stress=("corner",)).cached
    assert not checked(good, good, tmp_path, budget={"masked/max_abs": 1.0}).cached
