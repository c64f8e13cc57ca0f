"""A budget that travels with the model: what it judges, what it needs labels for, and what comes before it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from refusals import Cli, assert_told

from mmtrt.artifacts import StageCache
from mmtrt.errors import InputError
from mmtrt.onnx_files import BUDGET_KEY, SPEC_KEY, metadata_of, set_metadata
from mmtrt.parity.defaults import head_defaults
from mmtrt.pipeline.checking import CheckRequest, check_files, default_samples
from mmtrt.pipeline.context import Context
from mmtrt.samples import SampleSet, open_set, split_label


@pytest.fixture
def carrying(tiny: Path, tmp_path: Path) -> Path:
    """The test model with a parity budget of its own."""
    proto = onnx.load(str(tiny))
    set_metadata(proto, {BUDGET_KEY: '{"answer:accuracy_drop": 0.01, "sqnr_db": 60.0}'})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def context(folder: Path, notes: list[str]) -> Context:
    return Context(cache=StageCache(folder / "cache"), note=notes.append)


def labelled(tiny: Path) -> SampleSet:
    return open_set(str(tiny.with_name("tiny.calib")))


def unlabelled(tiny: Path) -> SampleSet:
    given = labelled(tiny)
    return SampleSet(source="bare", key="bare", read=lambda: (split_label(sample)[0] for sample in given))


def test_a_carried_budget_is_judged_with_the_task_metrics_that_it_names(
    carrying: Path, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = check_files(
        context(tmp_path, notes), CheckRequest(candidate=str(carrying), against=str(tiny), samples=labelled(tiny))
    )
    answer, match = result.outputs["answer"], result.outputs["match"]
    assert result.verdict == "pass"
    varies = head_defaults("fp32")["explained_variance"]
    assert answer.budget == {"non_finite": 0.0, "sqnr_db": 60.0, "explained_variance": varies, "accuracy_drop": 0.01}
    assert answer.task == answer.reference_task
    assert 0 <= answer.task["accuracy"] <= 1
    assert match.task == {}
    assert match.budget == {"non_finite": 0.0, "sqnr_db": 60.0, "explained_variance": varies}
    assert answer.intervals["accuracy_drop"] == (0, 0)
    assert notes == []


def test_without_labels_the_rest_of_a_carried_budget_is_judged_and_that_is_said(
    carrying: Path, tiny: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    result = check_files(
        context(tmp_path, notes), CheckRequest(candidate=str(carrying), against=str(tiny), samples=unlabelled(tiny))
    )
    assert result.outputs["answer"].budget.keys() == {"non_finite", "sqnr_db", "explained_variance"}
    assert any("answer:accuracy_drop" in note for note in notes)


def test_without_labels_a_budget_that_was_given_is_refused(carrying: Path, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels") as refused:
        check_files(
            context(tmp_path, []),
            CheckRequest(
                candidate=str(carrying),
                against=str(tiny),
                samples=unlabelled(tiny),
                budget={"answer:accuracy_drop": 0.01},
            ),
        )
    assert "label.answer" in str(refused.value)


def test_a_budget_that_is_given_comes_first_and_leaves_the_rest_as_it_was(
    carrying: Path, tiny: Path, tmp_path: Path
) -> None:
    result = check_files(
        context(tmp_path, []),
        CheckRequest(
            candidate=str(carrying), against=str(tiny), samples=labelled(tiny), budget={"answer:max_abs": 1e-9}
        ),
    )
    answer, match = (result.outputs[name].budget for name in ("answer", "match"))
    assert (answer["max_abs"], answer["accuracy_drop"]) == (1e-9, 0.01)
    assert "sqnr_db" not in answer, "what is given on the error's size stands for what is carried"
    assert match["sqnr_db"] == 60


def test_the_set_that_lies_beside_is_taken_the_larger_one_first(tmp_path: Path) -> None:
    for name in ("vqa.golden", "vqa.calib"):
        (tmp_path / name).mkdir()
    assert default_samples(str(tmp_path / "vqa.int8.engine")) == str(tmp_path / "vqa.calib")
    shutil.rmtree(tmp_path / "vqa.calib")
    assert default_samples("zoo:vqa", str(tmp_path / "vqa.onnx")) == str(tmp_path / "vqa.golden")


def carrying_only(tiny: Path, path: Path, budget: str) -> str:
    proto = onnx.load(str(tiny))
    set_metadata(proto, {BUDGET_KEY: budget})
    onnx.save(proto, str(path))
    return str(path)


def test_a_carried_drop_for_every_output_is_judged_where_there_are_labels(tiny: Path, tmp_path: Path) -> None:
    model = carrying_only(tiny, tmp_path / "model.onnx", '{"accuracy_drop": 0.01}')
    notes: list[str] = []
    result = check_files(
        context(tmp_path, notes), CheckRequest(candidate=model, against=str(tiny), samples=labelled(tiny))
    )
    assert [output.budget["accuracy_drop"] for output in result.outputs.values()] == [0.01, 0.01]
    assert notes == []


def test_where_nothing_of_a_carried_budget_can_be_judged_the_default_is(tiny: Path, tmp_path: Path) -> None:
    model = carrying_only(tiny, tmp_path / "model.onnx", '{"answer:accuracy_drop": 0.01}')
    result = check_files(
        context(tmp_path, []), CheckRequest(candidate=model, against=str(tiny), samples=unlabelled(tiny))
    )
    assert result.outputs["answer"].budget == {"non_finite": 0.0, **head_defaults("fp32")}


def test_what_an_output_is_comes_from_the_model_or_the_command(tiny: Path, tmp_path: Path, cli: Cli) -> None:
    proto = onnx.load(str(tiny))
    spec = json.loads(next(e.value for e in proto.metadata_props if e.key == SPEC_KEY))
    set_metadata(proto, {SPEC_KEY: json.dumps({**spec, "heads": {"match": "classes"}})})
    model = tmp_path / "said.onnx"
    onnx.save(proto, str(model))
    arguments = ("check", model, "--against", tiny, "--samples", tiny.with_name("tiny.calib"), "--json")
    outputs = json.loads(cli(*arguments, "--head", "answer=regression").out)["outputs"]
    assert {name: row["kind"] for name, row in outputs.items()} == {"answer": "regression", "match": "classes"}
    assert "worst_explained_variance" in outputs["answer"]["budget"]
    assert "probability_distance" in outputs["match"]["budget"]
    assert outputs["answer"]["probability_distance"] is None
    assert_told(cli(*arguments, "--head", "anser=classes"), 2, "'anser'", "'answer'")


def test_too_few_samples_to_tell_are_exit_code_1_and_say_so(tiny: Path, cli: Cli) -> None:
    samples = ("--samples", tiny.with_name("tiny.calib"), "--count", 5, "--budget", "argmax_agreement=0.99")
    said = cli("check", tiny, "--against", tiny, *samples)
    assert said.code == 1
    assert "inconclusive" in said.out
    assert "5 samples can't tell; about 381 would" in " ".join(said.out.split())
    assert json.loads(cli("check", tiny, "--against", tiny, *samples, "--json").out)["verdict"] == "inconclusive"


def test_more_samples_of_a_set_are_another_check(tiny: Path, cli: Cli) -> None:
    arguments = ("check", tiny, "--against", tiny, "--samples", tiny.with_name("tiny.calib"), "--json", "--count")
    for count in (1, 20):
        said = cli(*arguments, count)
        assert said.code == 0, said.err
        assert json.loads(said.out)["samples"] == count


def test_a_verdict_over_other_samples_of_the_same_function_is_no_stored_one(tiny: Path, cli: Cli) -> None:
    Path("drawn.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n\n\ndef events():\n"
        "    for file in sorted(Path(Path('which').read_text()).glob('*.npz')):\n"
        "        yield {k: a for k, a in np.load(file).items() if '.' not in k}\n",
        encoding="utf-8",
    )
    asked = ("check", tiny, "--against", tiny, "--samples", "drawn:events", "--stress", "none", "--json")
    for folder, cached in (("golden", False), ("calib", False), ("golden", True)):
        Path("which").write_text(str(tiny.with_name(f"tiny.{folder}")), encoding="utf-8")
        said = cli(*asked)
        assert said.code == 0, said.err
        found = json.loads(said.out)
        assert (found["samples"], found["cached"]) == ({"golden": 8, "calib": 40}[folder], cached)


SET_BY_A_FILE = """
import json
from pathlib import Path

import torch


class Scaled(torch.nn.Module):
    def __init__(self, by, shift):
        super().__init__()
        self.by = by
        self.register_buffer("shift", torch.tensor([shift]), persistent=False)

    def forward(self, x):
        return x * self.by + self.shift


def factory():
    settings = json.loads(Path("settings.json").read_text())
    return Scaled(**settings).eval(), {"x": torch.ones(2, 3)}, {"x": {0: "batch"}}
"""


def test_a_verdict_on_a_source_that_was_set_otherwise_is_no_stored_one(cli: Cli) -> None:
    Path("set_by_a_file.py").write_text(SET_BY_A_FILE, encoding="utf-8")
    np.savez("x.npz", x=np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))
    verdicts = []
    for by, shift in ((2.0, 0.5), (3.0, 0.5), (2.0, 0.75), (2.0, 0.5)):
        Path("settings.json").write_text(json.dumps({"by": by, "shift": shift}), encoding="utf-8")
        if not verdicts:
            said = cli("record", "set_by_a_file:factory", "--samples", "x.npz", "--stress", "none", "-o", "before")
            assert said.code == 0, said.err
        said = cli("check", "set_by_a_file:factory", "--against", "before", "--stress", "none", "--json")
        found = json.loads(said.out)
        verdicts.append((found["verdict"], found["cached"]))
    assert verdicts == [("pass", False), ("fail", False), ("fail", False), ("pass", True)]


@pytest.mark.parametrize("bound", ["NaN", "-Infinity", "1e999", "1" + "0" * 400])
def test_a_carried_bound_that_is_no_number_is_bad_input(tiny: Path, tmp_path: Path, cli: Cli, bound: str) -> None:
    model = carrying_only(tiny, tmp_path / "model.onnx", f'{{"sqnr_db": {bound}}}')
    assert_told(cli("check", model, "--against", tiny), 3, "mmtrt.budget metadata", "--budget")


def test_a_budget_for_phrases_is_refused_where_none_are_generated(tiny: Path, cli: Cli) -> None:
    said = cli("check", tiny, "--against", tiny, "--budget", "phrase_agreement=1")
    assert_told(said, 2, "'phrase_agreement' is for phrases", "pipeline with a step")


def test_a_pipeline_is_sent_to_what_judges_it(tiny: Path, cli: Cli) -> None:
    Path("talk.pipeline.json").write_text("{}", encoding="utf-8")
    for command in (("check", "talk.pipeline.json", "--against", tiny), ("bench", "talk.pipeline.json")):
        assert_told(cli(*command), 3, "talk.pipeline.json is a pipeline", "`mmtrt run`")


@pytest.mark.parametrize("flag", [("--samples", "random"), ("--checkpoint", "weights.pt")])
def test_what_a_check_of_a_pipeline_would_pass_over_is_refused(cli: Cli, flag: tuple[str, str]) -> None:
    said = cli("check", "talk.pipeline.json#int8", "--against", "talk.golden", *flag)
    assert_told(said, 2, "talk.pipeline.json#int8 is a pipeline", flag[0])


def test_an_average_over_no_words_is_found_by_an_event_without_text(tiny: Path, tmp_path: Path) -> None:
    """PyTorch's module is finite there, and no sample is like that."""
    proto = onnx.load(str(tiny))
    last = next(one for one in proto.graph.node if "answer" in one.output)
    last.output[:] = ["answer_before" if name == "answer" else name for name in last.output]
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1]), "words_axis"))
    proto.graph.node.extend(
        [
            graphs.node("Cast", ["mask"], "shown", to=onnx.TensorProto.FLOAT),
            graphs.node("ReduceSum", ["shown", "words_axis"], "count", keepdims=1),
            graphs.node("Mul", ["answer_before", "count"], "total"),
            graphs.node("Div", ["total", "count"], "answer"),
        ]
    )
    onnx.save(proto, str(tmp_path / "bad.onnx"))
    request = CheckRequest(candidate=str(tmp_path / "bad.onnx"), against="tiny_fusion:factory", samples=labelled(tiny))
    result = check_files(context(tmp_path, []), request)
    assert {output.verdict for output in result.outputs.values()} == {"pass"}
    (bad,) = [case for case in result.stress if case.verdict == "fail"]
    assert (bad.kind, bad.name) == ("masked", "text")
    assert {name: output.verdict for name, output in bad.outputs.items()} == {"answer": "fail", "match": "pass"}
    assert result.verdict == "fail"
    right = check_files(context(tmp_path, []), replace(request, candidate=str(tiny)))
    assert {case.verdict for case in right.stress} == {"pass"}


def test_a_candidate_that_takes_less_is_told(tiny: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(tiny))
    spec = json.loads(metadata_of(proto)[SPEC_KEY])
    name, (low, usual, high) = next(iter(spec["ranges"].items()))
    spec["ranges"][name] = [low, usual, high - 1]
    set_metadata(proto, {SPEC_KEY: json.dumps(spec)})
    onnx.save(proto, str(tmp_path / "less.onnx"))
    notes: list[str] = []
    request = CheckRequest(
        candidate=str(tmp_path / "less.onnx"), against=str(tiny), samples=unlabelled(tiny), stress=()
    )
    check_files(context(tmp_path, notes), request)
    assert any(f"{name} is {low} to {high - 1} where the reference has {low} to {high}" in note for note in notes)
