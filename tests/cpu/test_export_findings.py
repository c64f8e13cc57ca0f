"""What an export tells of a model before anything is built: where, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from refusals import Cli

from mmtrt.artifacts import StageCache
from mmtrt.errors import ModelError
from mmtrt.export import verify as verification
from mmtrt.export.constants import constant_findings
from mmtrt.export.exporter import Exported, ExportOptions, export_model
from mmtrt.export.findings import Finding
from mmtrt.export.graph_findings import input_findings, reached
from mmtrt.export.sources import load_source
from mmtrt.pipeline import exporting, parsing
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, export_stage


def staged(name: str) -> ExportResult:
    """The export stage, in the cache that the tests of a session share."""
    source = load_source(f"telling_sources:{name}")
    return export_stage(Context(cache=StageCache.default()), source, ExportOptions(calibration_samples=4))


def exported(name: str, folder: Path) -> Exported:
    return export_model(load_source(f"telling_sources:{name}"), folder, ExportOptions(calibration_samples=4))


def of_kind(findings: tuple[Finding, ...], kind: str) -> list[Finding]:
    found = [finding for finding in findings if finding.kind == kind]
    assert all(finding.what and finding.where and finding.fix for finding in found)
    return found


# ---------------------------------------------------------------------------------------------------------- inputs


def test_an_output_that_depends_on_no_input_of_a_modality_is_told() -> None:
    made = staged("deaf")
    assert {finding.where for finding in of_kind(made.findings, "dropped input")} | {
        finding.where for finding in of_kind(made.findings, "unused input")
    } == {"mask"}
    blind = [finding.what for finding in of_kind(made.findings, "blind output")]
    assert sorted(blind) == [
        "output 'joint' depends on no input of modality 'text'",
        "output 'seen' depends on no input of modality 'text'",
    ]


def test_values_taken_inside_a_subgraph_count_and_sizes_do_not() -> None:
    graph = onnx.parser.parse_graph(
        """g (float[n] a, float[n] b, bool c, float[n] d) => (float[n] y, int64[1] z) {
            y = If (c) <then_branch = t () => (float[n] p) { p = Add (a, b) },
                        else_branch = e () => (float[n] q) { q = Identity (a) }>
            s = Shape (d)
            z = Identity (s)
        }"""
    )
    assert reached(graph) == {"y": frozenset("abc"), "z": frozenset()}


# ------------------------------------------------------------------------------------------------------- constants


def test_constants_that_fp16_can_not_hold_are_named_by_their_module() -> None:
    found = of_kind(staged("extreme").findings, "fp16 constant")
    large = next(finding for finding in found if "1e+06" in finding.what)
    assert "'scale'" in large.what
    assert "two_towers.py" in large.where
    assert large.severity == "warning"
    lost = next(finding for finding in found if "which is 0 in FP16" in finding.what)
    assert "1e-10" in lost.what
    partly = next(finding for finding in found if "5 of" in finding.what)
    assert "fuse" in partly.where
    assert partly.severity == "note"


def test_what_fills_a_mask_is_a_note() -> None:
    found = of_kind(staged("finite").findings, "fp16 constant")
    assert [finding.severity for finding in found] == ["note"]
    assert "masks" in found[0].what


def test_a_weight_that_is_no_number_is_an_error_with_its_module() -> None:
    found = of_kind(staged("broken").findings, "weights not finite")
    assert [(finding.where, finding.severity) for finding in found] == [("fuse", "error")]
    assert "1 of the 8 values of 'fuse.bias'" in found[0].what


# ------------------------------------------------------------------------------------------------------------ masks


def test_each_modality_is_verified_missing() -> None:
    made = staged("finite")
    missing = {row["masked"]: row for row in made.verified if row["masked"]}
    assert missing["text"]["zeros"] == []
    assert missing["image"]["zeros"] == ["image"]
    assert missing["text"]["sizes"] == {"batch": 2, "text": 5}
    assert all(0 <= worst < 1e-4 for row in missing.values() for worst in row["max_abs"].values())
    assert not of_kind(made.findings, "missing modality")


@pytest.mark.parametrize(("name", "value"), [("masks_list", 0), ("padded", True)])
def test_a_mask_hides_by_the_value_that_it_is_told_or_named_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    fed: list[dict[str, np.ndarray]] = []
    real = verification.run_isolated

    def seen(function: object, path: object, feeds: list[dict[str, np.ndarray]], **kwargs: object) -> object:
        fed.extend(feeds)
        return real(function, path, feeds, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(verification, "run_isolated", seen)
    assert "text" in {row.masked for row in exported(name, tmp_path).verified}
    mask = "padding_mask" if name == "padded" else "mask"
    assert sum((feed[mask] == value).all() for feed in fed) == 1


def test_without_a_mask_nothing_is_masked() -> None:
    assert {row["masked"] for row in staged("masks_none").verified} == {None, "image"}


def test_a_module_that_is_itself_not_finite_without_a_modality_is_told() -> None:
    found = of_kind(staged("infinite").findings, "missing modality")
    assert [finding.where for finding in found] == ["joint"]
    assert "text wholly masked" in found[0].what


def test_a_module_that_refuses_an_event_without_a_modality_is_told() -> None:
    made = staged("refusing")
    found = of_kind(made.findings, "missing modality")
    assert "no word at all" in found[0].what
    assert "text" not in {row["masked"] for row in made.verified}


def test_a_graph_that_is_off_without_a_modality_only_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = verification.run_isolated

    def off(*args: object, **kwargs: object) -> object:
        runs = real(*args, **kwargs)  # type: ignore[arg-type]
        runs[-1]["joint"] = runs[-1]["joint"] * np.float32(np.nan)
        return runs

    monkeypatch.setattr(verification, "run_isolated", off)
    with pytest.raises(ModelError, match=r"'joint'.*not finite.*text wholly masked"):
        exported("finite", tmp_path)


@pytest.mark.parametrize(("name", "words"), [("masks_name", "'mask'"), ("masks_value", "0 or 1")])
def test_masks_that_are_told_wrongly_are_refused(name: str, words: str) -> None:
    with pytest.raises(ModelError, match="masks") as refused:
        load_source(f"telling_sources:{name}")
    assert words in str(refused.value.fix)


def test_an_axis_that_the_graph_fixes_is_told() -> None:
    source = load_source("telling_sources:finite")
    graph = onnx.parser.parse_graph(
        "g (float[2, 4] image, float[2, t] text) => (float[2, 4] y) { y = Identity (image) }"
    )
    names = list(source.examples)[:2]
    for value, name in zip(graph.input, names, strict=True):
        value.name = name
    found = list(input_findings(source, onnx.helper.make_model(graph), {**source.ranges, "batch": (1, 3, 8)}))
    lost = [finding.what for finding in of_kind(tuple(found), "fixed axis")]
    assert "axis 'batch' lost its dynamism: the graph takes 2 only" in lost


@pytest.mark.parametrize(("values", "said"), [([0, 0, 1e-9], "holds 1e-09"), ([1e-9, 1e-9], "lies below")])
def test_a_constant_that_is_nothing_in_fp16_is_told(values: list[float], said: str, tmp_path: Path) -> None:
    constant = onnx.numpy_helper.from_array(np.array(values, np.float32), "tiny")
    node = onnx.helper.make_node("Add", ["x", "tiny"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y], [constant]))
    assert [said in finding.what for finding in constant_findings(model, tmp_path)] == [True]


# ----------------------------------------------------------------------------------------------------------- parser


def test_an_operator_that_the_parser_refuses_is_told_at_once() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    found = of_kind(staged("determinant").findings, "parser")
    assert [finding.severity for finding in found] == ["error"]
    assert "(Det)" in found[0].what
    assert "two_towers.py" in found[0].where
    assert not of_kind(staged("finite").findings, "parser")


def test_without_a_parser_the_check_is_skipped_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / "hidden" / module).mkdir(parents=True)
        (tmp_path / "hidden" / module / "__init__.py").write_text("raise ImportError('hidden')\n")
    monkeypatch.setattr(exporting, "parsers_here", lambda: {"tensorrt": "hidden"})
    with monkeypatch.context() as hidden:
        hidden.syspath_prepend(str(tmp_path / "hidden"))
        hidden.setenv("PYTHONPATH", str(tmp_path / "hidden"))
        found = of_kind(staged("finite").findings, "parser")
    assert [finding.severity for finding in found] == ["note"]
    assert "was not asked" in found[0].what
    assert "pip install" in found[0].fix
    # What this moment could not tell is not kept.
    asked: list[Path] = []
    monkeypatch.setattr(exporting, "parser_findings", lambda path: asked.append(path) or ())
    assert not of_kind(staged("finite").findings, "parser")
    assert len(asked) == 1


def test_another_parser_is_asked_again_without_another_export(monkeypatch: pytest.MonkeyPatch) -> None:
    first = staged("finite")
    monkeypatch.setattr(parsing, "parse_model", lambda _: pytest.fail("asked again"))
    assert staged("finite").findings == first.findings
    monkeypatch.setattr(exporting, "parsers_here", lambda: {"tensorrt": "99"})
    asked: list[Path] = []
    monkeypatch.setattr(exporting, "parser_findings", lambda path: asked.append(path) or ())
    assert staged("finite").cached
    assert len(asked) == 1


# ---------------------------------------------------------------------------------------------------- command line


def test_the_command_tells_in_text_and_in_json(cli: Cli) -> None:
    said = cli("export", "telling_sources:extreme", "-o", "made", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    for finding in found["findings"]:
        assert set(finding) == {"kind", "what", "where", "fix", "severity"}
        assert finding["what"] in said.err
        assert finding["fix"] in said.err
        assert finding["what"] in found["warnings"]
    severities = [finding["severity"] for finding in found["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert {row["masked"] for row in found["verified"]} == {None, "text", "image"}
    text = cli("export", "telling_sources:extreme", "-o", "made", "-q")
    assert "text masked: off by" in text.out
    assert "warning" in text.out
