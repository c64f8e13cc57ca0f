"""The table of hard cases: a row per kind with its worst case, and what fails or could not be judged below it."""

from __future__ import annotations

from typing import Any

from rich.console import Console, Group

from mmtrt.report.stress import stress_view
from mmtrt.results import OutputResult, StressResult, Verdict


def shown(*cases: StressResult) -> str:
    console = Console(width=200, highlight=False, color_system=None)
    with console.capture() as capture:
        console.print(Group(*stress_view(cases)))
    return capture.get()


def row(text: str, kind: str) -> str:
    return " ".join(next(line for line in text.splitlines() if line.startswith(f"{kind} ")).split())


def output(sqnr_db: float | None, verdict: Verdict = "pass", **fields: Any) -> OutputResult:
    metrics = {"sqnr_db": sqnr_db, "max_abs": 0.0 if sqnr_db is None else 0.1, "non_finite": 0}
    return OutputResult(metrics=metrics, budget={"non_finite": 0.0, "sqnr_db": 15.0}, verdict=verdict, **fields)


def case(kind: str, name: str, verdict: Verdict = "pass", note: str = "", **outputs: OutputResult) -> StressResult:
    return StressResult(kind=kind, name=name, sizes={"batch": 1}, outputs=outputs, verdict=verdict, note=note)


def test_a_kind_has_a_row_with_its_worst_case() -> None:
    text = shown(
        case("corner", "batch = 1", answer=output(30.25), match=output(28)),
        case("corner", "batch = 8", answer=output(22.5), match=output(None)),
        case("masked", "text [1]", answer=output(None)),
    )
    assert row(text, "corner") == "corner 2 batch = 8 answer 22.5 sqnr_db 15 pass"
    assert row(text, "masked") == "masked 1 text [1] answer exact sqnr_db 15 pass"


def test_what_fails_is_the_worst_and_is_told() -> None:
    failed = output(20, "fail", why=("max_abs 0.1 is above 0.01",))
    text = shown(
        case("zeroed", "image", answer=output(16)),
        case("zeroed", "text", "fail", answer=output(99), match=failed),
    )
    assert row(text, "zeroed") == "zeroed 2 text match 20.0 sqnr_db 15 FAIL"
    assert "stress zeroed, text: output 'match': max_abs 0.1 is above 0.01" in text
    assert "zeroed, image" not in text


def test_what_nobody_can_tell_is_listed_with_its_reason() -> None:
    text = shown(
        case("masked", "text", "reference not finite", answer=output(40, "reference not finite"), match=output(40)),
        case("corner", "batch = 8", "reference refuses", "IndexError: no"),
        case("batch", "batch = 8", "inconclusive", "no memory"),
        case("extremes", "image", note="as calibration saw it", answer=output(40)),
        case("extremes", "more", note="as calibration saw it", answer=output(41)),
    )
    assert "reference not finite" in row(text, "masked")
    assert "stress masked, text: output 'answer': reference not finite" in text
    assert "output 'match'" not in text
    assert "stress corner, batch = 8: reference refuses: IndexError: no" in text
    assert "stress batch, batch = 8: inconclusive: no memory" in text
    assert text.count("as calibration saw it") == 1


def test_without_cases_there_is_no_table() -> None:
    assert stress_view(()) == []
