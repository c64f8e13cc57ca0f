"""A check as JUnit XML: what GitHub's, GitLab's and Jenkins' readers have in common.

`testsuites` holds a `testsuite` per part: the samples, each kind of hard case, the drift. A `testcase` is an output
and a metric that is judged, or a hard case and an output; it holds at most one of `failure`, `error` and `skipped`,
since Jenkins keeps one. What ran is in the first suite's `properties`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree as ET

import mmtrt
from mmtrt.results import CheckResult, OutputResult, StressResult

__all__ = ["Case", "State", "document", "error_junit", "junit"]

State = Literal["pass", "failure", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Case:
    """A test case: its name, what it is of, how it ended, and what is said of it."""

    name: str
    of: str
    state: State = "pass"
    kind: str = ""
    message: str = ""
    out: str = ""


def junit(check: CheckResult) -> bytes:
    """Return the document, UTF-8."""
    suites: dict[str, list[Case]] = {}
    if check.note:
        state: State = "error" if check.verdict == "inconclusive" else "failure"
        suites["check"] = [Case(check.note.partition(":")[0], "check", state, check.verdict, check.note)]
    suites["samples"] = [case for name, output in check.outputs.items() for case in _of_output(name, output)]
    for stress in check.stress:
        suites.setdefault(f"stress {stress.kind}", []).extend(_of_stress(stress))
    if check.drift is not None:
        suites["drift"] = _of_drift(check.drift)
    return document({name: cases for name, cases in suites.items() if cases}, _properties(check))


def error_junit(candidate: str, against: str, error: str, fix: str | None = None, *, command: str = "check") -> bytes:
    """Return the document of a command that ended in an error and has no result."""
    message = f"{error}\n{fix}" if fix else error
    case = Case(f"the {command} ended in an error", command, "error", "error", message)
    properties = {"mmtrt": mmtrt.__version__, "candidate": candidate, "reference": against}
    return document({command: [case]}, properties, command=command)


# ---------------------------------------------------------------------------------------------------- the cases


def _of_output(name: str, output: OutputResult) -> Iterator[Case]:
    """Yield a case per metric that is judged, and one for each reason that names none of them."""
    left = list(output.why)
    for metric, bound in output.budget.items():
        why = [text for text in left if text.split(" ", 1)[0] == metric]
        left = [text for text in left if text not in why]
        state: State = "failure" if why else "pass"
        found = _found(output, metric, bound)
        yield Case(metric, f"samples.{name}", state, output.verdict, _told(why), found)
    if left:
        yield Case("verdict", f"samples.{name}", "failure", output.verdict, _told(left))
    if output.verdict not in {"pass", "fail", "inconclusive"}:
        yield Case(output.verdict, f"samples.{name}", "skipped", output.verdict, output.verdict)
    elif not output.budget and not output.why:
        yield Case("verdict", f"samples.{name}", _state(output.verdict), output.verdict, output.verdict)


def _found(output: OutputResult, metric: str, bound: float) -> str:
    """Return the figures; they are no part of a case's name, by which CI knows it from run to run."""
    value = output.metrics.get(metric)
    return f"{metric} {'none' if value is None else f'{value:.7g}'}, held to {bound:g}"


def _told(why: Iterable[str]) -> str:
    return "\n".join(why)


def _of_stress(case: StressResult) -> Iterator[Case]:
    of = f"stress.{case.kind}"
    name = case.name or case.kind
    if not case.outputs:
        message = case.note or case.verdict
        yield Case(name, of, _state(case.verdict), case.verdict, message)
    for output_name, output in case.outputs.items():
        message = _told((*output.why, *([case.note] if case.note else []))) or output.verdict
        yield Case(f"{name}: {output_name}", of, _state(output.verdict), output.verdict, message)


def _state(verdict: str) -> State:
    if verdict == "pass":
        return "pass"
    return "failure" if verdict in {"fail", "inconclusive"} else "skipped"


def _of_drift(drift: Mapping[str, object]) -> list[Case]:
    rows: Iterable[Mapping[str, str]] = drift["worse"]  # type: ignore[assignment]  # as parity.drift writes it
    worse = [Case(f"{row['where']} {row['metric']}".rstrip(), "drift", "failure", "drift", row["why"]) for row in rows]
    return worse or [Case(f"against {drift['baseline']}", "drift")]


def _properties(check: CheckResult) -> dict[str, str]:
    found = {"mmtrt": mmtrt.__version__, "verdict": check.verdict, "samples": str(check.samples)}
    for side, ran in (("candidate", check.candidate), ("reference", check.reference)):
        facts = {"": ran.what, ".runs": ran.runs, ".precision": ran.precision, ".digest": ran.digest, ".note": ran.note}
        found |= {f"{side}{key}": value for key, value in facts.items() if value}
    if check.sample_set:
        found["samples.source"] = str(check.sample_set.get("source", ""))
        found["samples.on_data"] = str(check.sample_set.get("on_data", "")).lower()
    return found


# ------------------------------------------------------------------------------------------------- the document


def document(suites: Mapping[str, Iterable[Case]], properties: Mapping[str, str], *, command: str = "check") -> bytes:
    """Return suites as JUnit XML, UTF-8; the properties stand in the first one."""
    root = ET.Element("testsuites", {"name": f"mmtrt {command}"})
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for number, (name, cases) in enumerate(suites.items()):
        suite = ET.SubElement(root, "testsuite", {"name": _clean(f"mmtrt {name}")})
        if not number:
            listed = ET.SubElement(suite, "properties")
            for key, value in properties.items():
                ET.SubElement(listed, "property", {"name": _clean(key), "value": _clean(value)})
        counts = dict.fromkeys(totals, 0)
        for case in cases:
            _add(suite, case)
            counts["tests"] += 1
            if case.state != "pass":
                counts[case.state if case.state == "skipped" else f"{case.state}s"] += 1
        suite.attrib |= {key: str(count) for key, count in counts.items()} | {"time": "0"}
        totals = {key: total + counts[key] for key, total in totals.items()}
    root.attrib |= {key: str(total) for key, total in totals.items()} | {"time": "0"}
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add(suite: ET.Element, case: Case) -> None:
    at = {"classname": _clean(f"mmtrt.{case.of}"), "name": _clean(case.name), "time": "0"}
    element = ET.SubElement(suite, "testcase", at)
    if case.state == "skipped":
        ET.SubElement(element, "skipped", {"message": _clean(case.message)})
    elif case.state != "pass":
        first = case.message.partition("\n")[0]
        told = ET.SubElement(element, case.state, {"message": _clean(first), "type": _clean(case.kind)})
        told.text = _clean(case.message)
    if case.out:
        ET.SubElement(element, "system-out").text = _clean(case.out)


_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _clean(text: str) -> str:
    """Write what XML 1.0 can't hold, control characters and halves of surrogate pairs, as escapes."""
    return _NO_XML.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
