"""What a check leaves for CI: JUnit XML, a Markdown summary, and the drift from an earlier check."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import onnx
import pytest
from ci_documents import document
from refusals import Cli, assert_told

from mmtrt.errors import MachineError


def faulty(tiny: Path, path: Path, shift: float = 0.5) -> Path:
    """The model with the bias of the answer moved."""
    model = onnx.load(str(tiny))
    weight = next(t for t in model.graph.initializer if list(t.dims) == [5])
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + shift, weight.name))
    onnx.save(model, str(path))
    return path


def suites(path: str) -> dict[str, ET.Element]:
    root = ET.fromstring(Path(path).read_bytes())  # noqa: S314 -- just written
    assert root.tag == "testsuites"
    found = {suite.attrib["name"]: suite for suite in root}
    for key, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        counts = [int(suite.attrib[key]) for suite in root]
        assert counts == [len(list(suite.iter(tag))) for suite in root]
        assert int(root.attrib[key]) == sum(counts)
    return found


def names(suite: ET.Element, tag: str) -> list[str]:
    return [case.attrib["name"] for case in suite.iter("testcase") if case.find(tag) is not None]


# ------------------------------------------------------------------------------------------------------- JUnit


def test_a_case_for_each_output_and_metric_and_each_hard_case(tiny: Path, recorded: Path, cli: Cli) -> None:
    bad = faulty(tiny, Path("tiny.onnx"))
    found = document(cli("check", bad, "--against", recorded, "--junit", "out/junit.xml", "--json"), 1)
    parts = suites("out/junit.xml")
    assert set(parts) == {"mmtrt samples", *(f"mmtrt stress {case['kind']}" for case in found["stress"])}
    cases = [(case.attrib["classname"], case.attrib["name"]) for case in parts["mmtrt samples"].iter("testcase")]
    judged = [(f"mmtrt.samples.{name}", metric) for name, row in found["outputs"].items() for metric in row["budget"]]
    assert cases == judged
    told_of = [case.findtext("system-out", "") for case in parts["mmtrt samples"].iter("testcase")]
    assert all(text.startswith(f"{name} ") for text, (_, name) in zip(told_of, cases, strict=True))
    failure = next(parts["mmtrt samples"].iter("failure"))
    assert failure.attrib["message"] in found["outputs"]["answer"]["why"]
    told = {p.attrib["name"]: p.attrib["value"] for p in parts["mmtrt samples"].iter("property")}
    assert told["candidate"] == "tiny.onnx"
    assert told["candidate.runs"].startswith("onnxruntime ")
    assert told["reference.runs"].startswith("recorded outputs of PyTorch ")
    corner = parts["mmtrt stress corner"]
    assert {name.rpartition(": ")[2] for name in names(corner, "failure")} == {"answer"}
    assert len(list(corner)) == 2 * sum(case["kind"] == "corner" for case in found["stress"])


def test_what_was_not_run_is_skipped(tiny: Path, cli: Cli) -> None:
    golden = tiny.with_name("tiny.golden")
    assert cli("check", tiny, "--against", golden, "--stress", "corner", "--junit", "junit.xml").code == 0
    (skipped,) = suites("junit.xml")["mmtrt stress corner"].iter("skipped")
    assert "can't be run" in skipped.attrib["message"]


def test_names_that_xml_and_markdown_take_for_their_own(tiny: Path, cli: Cli) -> None:
    odd = 'a<b>&"|`\x01ü\n*x*'
    model = onnx.load(str(tiny))
    for node in model.graph.node:
        for index, name in enumerate(node.output):
            if name == "answer":
                node.output[index] = odd
    model.graph.output[0].name = odd
    onnx.save(model, "odd.onnx")
    files = ("--junit", "junit.xml", "--summary", "summary.md", "--budget", "max_abs=-1")
    said = cli("check", "odd.onnx", "--against", "odd.onnx", "--samples", tiny.with_name("tiny.calib"), *files)
    assert said.code == 1, said.err
    classes = {case.attrib["classname"] for case in suites("junit.xml")["mmtrt samples"].iter("testcase")}
    assert 'mmtrt.samples.a<b>&"|`\\x01ü\n*x*' in classes
    text = Path("summary.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "FAILED" in line]
    # One row, of as many cells as the head has: no name makes cells or lines of its own.
    assert len(rows) == 2
    assert 'a&lt;b&gt;&amp;"\\|\\` ü \\*x\\*' in rows[0]
    assert rows[0].replace("\\|", "").count("|") == 8


def test_an_error_is_a_case_too(tiny: Path, cli: Cli) -> None:
    files = ("--junit", "junit.xml", "--summary", "summary.md")
    assert_told(cli("check", tiny, "--against", "gone.onnx", *files), 3, "gone.onnx")
    (error,) = suites("junit.xml")["mmtrt check"].iter("error")
    assert "gone.onnx" in error.attrib["message"]
    assert "gone.onnx" in Path("summary.md").read_text(encoding="utf-8")
    assert_told(cli("check", tiny, "--against", tiny, "--budget", "nonsense", *files), 2, "nonsense")
    assert "nonsense" in Path("junit.xml").read_text(encoding="utf-8")


def test_a_document_that_can_t_be_written_is_told(tiny: Path, cli: Cli) -> None:
    Path("file").write_text("", encoding="utf-8")
    said = cli("check", tiny, "--against", tiny, "--stress", "none", "--junit", "file/junit.xml")
    assert_told(said, 4, "file/junit.xml")
    assert_told(cli("check", tiny, "--against", "gone.onnx", "--junit", "file/junit.xml"), 3, "gone.onnx")


def test_what_too_few_samples_can_t_be_held_to_is_told(tiny: Path, cli: Cli) -> None:
    asked = ("check", tiny, "--against", tiny, "--stress", "none", "--summary", "summary.md", "--count")
    for count, told in ((4, True), (8, False)):
        said = cli(*asked, count)
        assert said.code == 0
        assert ("output 'answer' is not held to explained_variance: 4 samples are too few" in said.out) == told
        assert ("is not held to" in Path("summary.md").read_text(encoding="utf-8")) == told


@pytest.mark.parametrize(
    ("flag", "writer"),
    [
        ("--plot=a.png", "mmtrt.report.growth.growth_picture"),
        ("--reduce=a.onnx", "mmtrt.pipeline.locating.place"),
    ],
)
def test_a_verdict_that_fails_is_told_where_the_disk_is_full_after_it(
    tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, flag: str, writer: str
) -> None:
    def full(*_: object) -> None:
        raise MachineError("the disk is full: it was not written", fix="Free some space.")

    monkeypatch.setattr(writer, full)
    asked = ("--stress", "none", "--junit", "junit.xml", "--json", flag)
    said = cli("check", faulty(tiny, Path("tiny.onnx")), "--against", tiny, *asked)
    found = document(said, 1)
    assert "the disk is full" in said.err
    assert found["verdict"] == "fail"
    assert names(suites("junit.xml")["mmtrt samples"], "failure")


# ----------------------------------------------------------------------------------------------------- Markdown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--junit="], "--junit names no file"),
        (["--summary", "."], "--summary names no file"),
        (["--junit", "a/../b.xml", "--summary", "a/../b.xml"], "--summary would write over"),
        (["--junit", "./gone.onnx"], "that is what is read"),
        (["--plot", "a.png", "--summary", "a.png"], "that is --plot"),
    ],
)
def test_a_document_without_a_file_of_its_own_is_refused_before_any_work(
    cli: Cli, flags: list[str], words: str
) -> None:
    assert_told(cli("check", "gone.onnx", "--against", "gone.onnx", *flags), 2, words)


def test_the_summary_of_a_step_is_appended(tiny: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Path("step.md")
    step.write_text("before\n", encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    command = ("check", tiny, "--against", tiny, "--stress", "corner")
    assert cli(*command).code == 0
    text = step.read_text(encoding="utf-8")
    assert text.startswith("before\n### mmtrt check: passed\n")
    assert "| `answer` | passed | exact |" in text
    assert "of 4 passed" in text
    assert cli(*command, "--summary", "own.md", "--samples", "random").code == 0
    assert step.read_text(encoding="utf-8") == text
    assert "drawn at random" in Path("own.md").read_text(encoding="utf-8")


def test_the_summary_names_what_failed(tiny: Path, recorded: Path, cli: Cli) -> None:
    bad = faulty(tiny, Path("tiny.onnx"))
    assert cli("check", bad, "--against", recorded, "--summary", "summary.md").code == 1
    text = Path("summary.md").read_text(encoding="utf-8")
    assert text.startswith("### mmtrt check: FAILED\n")
    assert "| `answer` | FAILED |" in text
    assert "| corner | " in text
    assert "recorded from tiny\\_fusion:factory" in text


# -------------------------------------------------------------------------------------------------------- drift


@pytest.fixture
def before(tiny: Path, recorded: Path, cli: Cli) -> Path:
    """An earlier check, of a model that is a little off."""
    said = cli("check", faulty(tiny, Path("tiny.onnx"), 0.001), "--against", recorded, *WIDE, "--json")
    path = Path("before.json")
    path.write_text(json.dumps(document(said)), encoding="utf-8")
    return path


WIDE = ("--budget", "sqnr_db=20", *(o for kind in ("corner", "batch") for o in ("--stress", kind)))


def drift(cli: Cli, code: int, candidate: Path, against: Path, before: Path, *more: object) -> dict[str, Any]:
    found = document(cli("check", candidate, "--against", against, *WIDE, "--baseline", before, *more, "--json"), code)
    assert found["verdict"] == ("fail" if code else "pass")
    drifted: dict[str, Any] = found["drift"]
    assert drifted["baseline"] == str(before)
    return drifted


def test_the_same_model_has_not_drifted(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    found = drift(cli, 0, Path("tiny.onnx"), recorded, before)
    assert (found["verdict"], found["worse"], found["better"]) == ("pass", [], [])


def test_worse_within_budget_fails_and_is_told(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    worse = faulty(tiny, Path("tiny.onnx"), 0.0012)
    found = drift(cli, 1, worse, recorded, before, "--junit", "junit.xml", "--summary", "summary.md")
    rows = {(row["where"], row["metric"]) for row in found["worse"]}
    assert ("output answer", "sqnr_db") in rows
    assert not any(where.startswith("output match") for where, _ in rows)
    assert len(names(suites("junit.xml")["mmtrt drift"], "failure")) == len(found["worse"])
    assert "**Drift** from `before.json`" in Path("summary.md").read_text(encoding="utf-8")
    said = cli("check", worse, "--against", recorded, *WIDE, "--baseline", before)
    assert "worse: output answer: sqnr_db" in said.out


def test_better_is_told_and_passes(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    found = drift(cli, 0, faulty(tiny, Path("tiny.onnx"), 0.0005), recorded, before)
    assert ("output answer", "sqnr_db") in {(row["where"], row["metric"]) for row in found["better"]}


def test_what_vanished_fails(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    data = json.loads(before.read_text())
    data["outputs"]["caption"] = data["outputs"]["answer"]
    before.write_text(json.dumps(data))
    found = drift(cli, 1, Path("tiny.onnx"), recorded, before, "--skip-stress", "batch")
    gone = {row["where"] for row in found["worse"]}
    assert "output caption" in gone
    assert any(where.startswith("stress batch") for where in gone)


def test_a_baseline_of_something_else_is_refused(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    command = ("check", "tiny.onnx", "--against", recorded, *WIDE, "--baseline")
    good = json.loads(before.read_text())

    def refused(data: object, *words: str) -> None:
        Path("other.json").write_text(json.dumps(data), encoding="utf-8")
        assert_told(cli(*command, "other.json"), 3, "baseline other.json", *words)

    refused({**good, "candidate": {**good["candidate"], "model": "zoo:vqa"}}, "zoo:vqa", "tiny_fusion:factory")
    refused({**good, "candidate": {**good["candidate"], "precision": "int8"}}, "in int8", "in fp32")
    refused({**good, "sample_set": {**good["sample_set"], "digest": "0" * 64}}, "other samples", "--samples")
    refused({**good, "schema": "mmtrt.check/9"}, "no mmtrt.check/1")
    refused({**good, "outputs": {"answer": {}}}, "can't be read")
    refused({**good, "outputs": {}, "verdict": "not run"}, "nothing to compare with")
    refused([], "no mmtrt.check/1")
    assert_told(cli(*command, "gone.json"), 3, "gone.json")


def test_a_baseline_that_no_check_wrote_is_refused(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    command = ("check", "tiny.onnx", "--against", recorded, *WIDE, "--baseline", "other.json")
    good = json.loads(before.read_text())
    answer, case = good["outputs"]["answer"], good["stress"][0]

    def refused(data: object) -> None:
        Path("other.json").write_text(json.dumps(data), encoding="utf-8")
        assert_told(cli(*command), 3, "baseline other.json")

    for metric, value in (("sqnr_db", "80"), ("cosine", {}), ("max_abs", 10**400), ("rel_l2", math.nan), ("task", [])):
        refused({**good, "outputs": {"answer": {**answer, metric: value}}})
        refused({**good, "stress": [{**case, "outputs": {"answer": {**answer, metric: value}}}]})
    for samples in (0, -8, "many", None):
        refused({**good, "samples": samples})
    refused({**good, "sample_set": None})
    refused({**good, "candidate": {**good["candidate"], "what": 5, "model": ""}})
    refused({**good, "stress": [{**case, "kind": ["corner"]}]})
    refused({"schema": "mmtrt.run/1", "checks": [{"candidate": 5}]})
    Path("other.json").write_text("[" * 100000, encoding="utf-8")
    assert_told(cli(*command), 3, "other.json is no JSON")


def test_a_run_s_report_is_a_baseline(tiny: Path, recorded: Path, before: Path, cli: Cli) -> None:
    other = json.loads(before.read_text())
    other["candidate"] = {**other["candidate"], "what": "made/tiny.int8.onnx"}
    report = {"schema": "mmtrt.run/1", "checks": [other, json.loads(before.read_text())]}
    Path("report.json").write_text(json.dumps(report), encoding="utf-8")
    assert drift(cli, 0, Path("tiny.onnx"), recorded, Path("report.json"))["verdict"] == "pass"
    Path("report.json").write_text(json.dumps({**report, "checks": [other]}), encoding="utf-8")
    said = cli("check", "tiny.onnx", "--against", recorded, "--baseline", "report.json")
    assert_told(said, 3, "no check of tiny.onnx", "tiny.int8.onnx")
