"""Which layers can be INT8: switches, sensitivity and search, judged by the file that is written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from converting import SHAPES, normal, run, sample_set, texts
from onnx import numpy_helper

from mmtrt.errors import InputError, UsageError
from mmtrt.metrics import Comparison
from mmtrt.onnx_files import SPEC_KEY, graph_spec, load_model, set_metadata
from mmtrt.pipeline.searching import BudgetJudge, task_metrics
from mmtrt.precision.convert import Conversion
from mmtrt.precision.options import PrecisionOptions
from mmtrt.precision.search import SearchResult, search
from mmtrt.precision.sensitivity import sensitivity
from mmtrt.precision.switches import Switched
from mmtrt.samples import write_samples
from mmtrt.tensors import Array

Mmtrt = Callable[..., "subprocess.CompletedProcess[str]"]
INT8 = PrecisionOptions(precision="int8")


@dataclass(frozen=True)
class Made:
    onnx: Path
    samples: str
    folder: Path

    def search(self, budget: dict[str, float], **more: Any) -> SearchResult:
        target = self.folder / "found.onnx"
        return search(self.onnx, target, INT8, samples=self.samples, judge=BudgetJudge(budget), **more)


def saved(folder: Path, proto: onnx.ModelProto, samples: list[dict[str, Array]]) -> Made:
    path = graphs.saved(proto, folder / "model.onnx")
    write_samples(folder / "set", samples, about={})
    return Made(path, str(folder / "set"), folder)


@pytest.fixture
def spoilt(tmp_path: Path) -> Made:
    """Four layers; one channel of what the third reads is a thousand times as large as the others, for nothing."""
    rng = np.random.default_rng(0)
    proto = graphs.mlp(rng, width=16, layers=4)
    constants = {t.name: t for t in proto.graph.initializer}
    names = [next(i for i in node.input if i in constants and len(constants[i].dims) == 2) for node in weighted(proto)]
    blown, deaf = (numpy_helper.to_array(constants[name]).copy() for name in names[1:3])
    blown[:, 0] *= 1000
    deaf[:, 0] = 0
    for name, array in zip(names[1:3], (blown, deaf), strict=True):
        constants[name].CopyFrom(numpy_helper.from_array(array, name))
    return saved(tmp_path, proto, normal((16,), 64))


def weighted(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if node.op_type in {"Gemm", "MatMul", "Conv"}]


@pytest.mark.parametrize("kind", ["attention", "mlp", "residual_cnn"])
@pytest.mark.parametrize("coverage", ["wide", "full"])
def test_the_switched_model_says_what_the_written_one_says(tmp_path: Path, kind: str, coverage: str) -> None:
    proto = (
        graphs.attention(np.random.default_rng(0), -1e9)
        if kind == "attention"
        else getattr(graphs, kind)(np.random.default_rng(0))
    )
    samples = texts() if kind == "attention" else normal(SHAPES[kind])
    source = graphs.saved(proto, tmp_path / "model.onnx")
    options = PrecisionOptions(precision="int8", coverage=coverage)
    conversion = Conversion.opened(source, options, samples=sample_set(samples))
    conversion.prepare()
    switched = Switched(conversion.model, conversion.plan, conversion.tuned())
    layers = range(len(switched.layers))
    feeds = [{name: array[None] for name, array in sample.items()} for sample in samples]
    rounded, off = Comparison(), Comparison()
    for one in feeds:
        told = run(source, one)["y"]
        off.add(told, switched.run(one, ())["y"])
        rounded.add(told, switched.run(one, layers)["y"])
    conversion.finish(tmp_path / "written.onnx")
    written, apart = Comparison(), Comparison()
    for one in feeds:
        got = run(tmp_path / "written.onnx", one)["y"]
        written.add(run(source, one)["y"], got)
        apart.add(got, switched.run(one, layers)["y"])
    assert off.sqnr_db > 100
    assert abs(rounded.sqnr_db - written.sqnr_db) < 1
    # What differs is FP16's rounding, and the codes that it tips over: of 255 codes it moves the upper ones by up to an
    # eighth of a step, so one of eight becomes its neighbour, and that is about half of what rounding itself loses.
    assert apart.sqnr_db > written.sqnr_db + 2


def test_the_layer_that_loses_most_comes_first(spoilt: Made) -> None:
    plain = PrecisionOptions(precision="int8", refine=(), method="max")
    found = sensitivity(spoilt.onnx, plain, samples=spoilt.samples)
    first, second = found.layers[:2]
    assert first.name == weighted(load_model(spoilt.onnx))[2].name
    assert first.sqnr_db["y"] < second.sqnr_db["y"] - 10  # type: ignore[operator]
    assert sum(loss.mac_share for loss in found.layers) <= 1
    assert found.samples == 16
    assert sum(loss.layers for loss in found.branches) == len(found.layers)
    assert found.inferences < 5


def test_what_holds_is_left_in_int8_and_the_rest_is_not(spoilt: Made) -> None:
    options = PrecisionOptions(precision="int8", refine=(), method="max")
    target = spoilt.folder / "found.onnx"
    judge = BudgetJudge({"sqnr_db": 25.0})
    found = search(spoilt.onnx, target, options, samples=spoilt.samples, judge=judge)
    assert found.met
    assert not found.outside
    assert [loss.name for loss in found.kept] == [weighted(load_model(spoilt.onnx))[2].name]
    [why] = [kept.why for kept in found.converted.kept if kept.why.startswith("the budget")]
    assert "leaves 'y'" in why
    assert 0 < found.converted.mac_share < 1
    fresh = Comparison()
    for sample in normal((16,), 64, seed=9):
        feeds = {"x": sample["x"][None]}
        fresh.add(run(spoilt.onnx, feeds)["y"], run(target, feeds)["y"])
    assert fresh.sqnr_db > 24
    assert found.inferences <= 40


def test_a_loose_budget_keeps_nothing(spoilt: Made) -> None:
    found = spoilt.search({"sqnr_db": -20.0})
    assert found.met
    assert not found.kept
    assert found.trials <= 4


def test_a_budget_that_cant_be_met_gives_the_best_there_is(spoilt: Made) -> None:
    found = spoilt.search({"sqnr_db": 300.0})
    assert not found.met
    assert found.outside
    assert found.outside[0].startswith("y: sqnr_db")
    assert found.converted.int8_nodes == 0
    assert found.metrics["y"]["sqnr_db"] > 40  # type: ignore[operator]
    onnx.checker.check_model(load_model(spoilt.folder / "found.onnx"), full_check=True)


def test_a_task_metric_s_drop_is_a_budget(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0), width=8, layers=3)
    samples = normal((8,), 64)
    source = graphs.saved(proto, tmp_path / "plain.onnx")
    labelled = [{**s, "label.y": run(source, {"x": s["x"][None]})["y"][0].argmax()} for s in samples]
    made = saved(tmp_path, proto, labelled)
    found = made.search({"y:accuracy_drop": 0.5}, tasks={"y": ["accuracy"]})
    assert found.met
    assert not found.kept
    assert not made.search({"y:accuracy_drop": -0.5}, tasks={"y": ["accuracy"]}).met


def test_a_budget_may_be_on_what_the_model_says_a_head_is(tmp_path: Path) -> None:
    proto = graphs.mlp(np.random.default_rng(0), width=8, layers=3)
    told = {**graph_spec(proto).to_json(), "heads": {"y": "multilabel"}}
    set_metadata(proto, {SPEC_KEY: json.dumps(told)})
    made = saved(tmp_path, proto, normal((8,), 32))
    found = made.search({"probability_distance": 1e-12})
    assert not found.met
    assert found.outside[0].startswith("y: probability_distance")
    assert found.metrics["y"]["argmax_agreement"] is None, "of labels that each say yes or no, none is the answer"
    assert task_metrics(made.onnx, {"probability_distance": 0.1}, None) == {}
    with pytest.raises(UsageError, match="outputs of another kind"):
        task_metrics(made.onnx, {"argmax_agreement": 0.9}, None)


def test_a_task_metric_that_an_output_has_no_shape_for_is_refused(tmp_path: Path) -> None:
    labelled = [{**s, "label.y": np.array(1)} for s in normal((8,), 32)]
    made = saved(tmp_path, graphs.mlp(np.random.default_rng(0), width=8, layers=3), labelled)
    with pytest.raises(InputError, match=r"auroc of output 'y': .* no two classes"):
        made.search({"y:auroc_drop": 0.5}, tasks={"y": ["auroc"]})


def test_few_samples_do_both_with_a_note(tmp_path: Path) -> None:
    made = saved(tmp_path, graphs.mlp(np.random.default_rng(0)), normal((8,), 6))
    notes: list[str] = []
    assert made.search({"sqnr_db": 0.0}, note=notes.append).judged_on == 6
    assert any("the same ones calibrate and judge" in text for text in notes)


def test_random_numbers_judge_nothing(spoilt: Made) -> None:
    with pytest.raises(UsageError, match="random numbers"):
        sensitivity(spoilt.onnx, INT8, samples="random")


def test_a_quantised_model_is_no_start(spoilt: Made) -> None:
    Conversion.opened(spoilt.onnx, INT8, samples=spoilt.samples).run(spoilt.folder / "q.onnx")
    with pytest.raises(UsageError, match="quantised already"):
        sensitivity(spoilt.folder / "q.onnx", INT8, samples=spoilt.samples)


# ----------------------------------------------------------------------------------------------- commands


def test_build_within_a_budget(mmtrt: Mmtrt, spoilt: Made) -> None:
    said = mmtrt("build", spoilt.onnx, "--int8", "--calib", spoilt.samples, "--budget", "cosine=0.99", "--json")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout)
    assert told["search"]["met"] is True
    assert told["int8"]["nodes"] + len(told["kept"]) == told["int8"]["of"]
    again = mmtrt("build", spoilt.onnx, "--int8", "--calib", spoilt.samples, "--budget", "cosine=0.99")
    assert "nothing had changed" in again.stdout
    assert "holds, on 16 samples" in again.stdout


def test_a_budget_out_of_reach_is_exit_1_and_leaves_the_best(mmtrt: Mmtrt, spoilt: Made) -> None:
    said = mmtrt("build", spoilt.onnx, "--int8", "--calib", spoilt.samples, "--budget", "sqnr_db=300")
    assert said.returncode == 1
    assert "can't be met" in said.stdout
    assert (spoilt.folder / "model.int8.engine").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fp16", "--budget", "cosine=0.9"], "Add --int8"),
        (["--int8", "--budget", "cosin=0.9"], "Did you mean 'cosine'?"),
        (["--int8", "--budget", "z:cosine=0.9"], "names no output"),
        (["--int8", "--budget", "y:accuracy_drop=0.1"], "not measured"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(mmtrt: Mmtrt, spoilt: Made, arguments: list[str], message: str) -> None:
    said = mmtrt("build", spoilt.onnx, "--calib", spoilt.samples, *arguments)
    assert said.returncode == 2
    assert message in said.stderr


def test_sensitivity_is_a_table_and_a_document(mmtrt: Mmtrt, spoilt: Made) -> None:
    said = mmtrt("sensitivity", spoilt.onnx, "--calib", spoilt.samples, "--plot", spoilt.folder / "s.svg")
    assert said.returncode == 0, said.stderr
    assert (spoilt.folder / "s.svg").stat().st_size > 0
    assert "samples that did not calibrate" in said.stdout
    told = json.loads(mmtrt("sensitivity", spoilt.onnx, "--calib", spoilt.samples, "--json").stdout)
    assert told["schema"] == "mmtrt.sensitivity/1"
    assert {"name", "module", "branch", "mac_share", "sqnr_db", "largest"} <= told["layers"][0].keys()
    refused = mmtrt("sensitivity", spoilt.onnx, "--calib", spoilt.samples, "--plot", "s.jpeg")
    assert refused.returncode == 2
    assert ".jpeg" in refused.stderr
