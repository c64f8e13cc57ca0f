"""A node that says something else on the same inputs is named, whatever it costs the outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import planting
import pytest
from onnx import helper

from mmtrt.artifacts import StageCache
from mmtrt.errors import MeasurementError
from mmtrt.onnx_files import load_model
from mmtrt.parity.again import place_of, run_again
from mmtrt.parity.locate import Trial, locate
from mmtrt.parity.reducing import reduce_random
from mmtrt.parity.subgraphs import Part
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.locating import locate_files
from mmtrt.results import CheckResult, Located

NOTE = "it says something else on the same inputs"
MILD = 1e-6
"""Noise that no budget for the samples sees."""


def request_for(candidate: Path, tiny: Path, reduce: Path | None = None) -> CheckRequest:
    return CheckRequest(
        candidate=str(candidate),
        against=str(tiny),
        samples=str(tiny.with_name("tiny.calib")),
        stress=("corner", "determinism"),
        reduce=reduce,
    )


def located(candidate: Path, tiny: Path, reduce: Path | None = None) -> tuple[CheckResult, Located]:
    context, request = Context(cache=StageCache(None)), request_for(candidate, tiny, reduce)
    told = check_files(context, request)
    return told, locate_files(context, request, told)


def feed_of(tiny: Path) -> dict[str, np.ndarray]:
    """One event of the set, as a batch."""
    arrays = np.load(next(tiny.with_name("tiny.calib").glob("*.npz")))
    return {name: arrays[name][None] for name in Part(tiny).inputs}


def failed(told: CheckResult) -> tuple[bool, list[str]]:
    """Whether the samples failed, and which kinds of hard cases did."""
    samples = any(output.verdict == "fail" for output in told.outputs.values())
    return samples, sorted({case.kind for case in told.stress if case.verdict == "fail"})


def noisy(module: str, op: str, scale: float = MILD, **seed: float) -> planting.Fault:
    """Behind a layer's last node of an operation, noise is added by nodes that tell no module."""

    def plant(model: onnx.ModelProto) -> None:
        last = planting.of_module(model, module, op)[-1]
        name = last.output[0]
        last.output[0] = f"{name}.quiet"
        at = list(model.graph.node).index(last) + 1
        quiet, noise = f"{name}.quiet", f"{name}.noise"
        made = [
            helper.make_node("RandomNormalLike", [quiet], [noise], name=noise, scale=scale, **seed),
            helper.make_node("Add", [quiet, noise], [name], name=f"{name}.add"),
        ]
        for offset, node in enumerate(made):
            model.graph.node.insert(at + offset, node)

    return plant


def noisy_weight(model: onnx.ModelProto) -> None:
    """A weight is noisy: what is random then reads no input of the model."""
    weight = planting.first_weight(model, "query", "MatMul")
    for node in planting.of_module(model, "query", "MatMul"):
        node.input[:] = [f"{weight}.noisy" if name == weight else name for name in node.input]
    noise = helper.make_node("RandomNormalLike", [weight], [f"{weight}.noise"], name="noise", scale=MILD)
    model.graph.node.insert(0, noise)
    model.graph.node.insert(1, helper.make_node("Add", [weight, f"{weight}.noise"], [f"{weight}.noisy"], name="add"))


@pytest.mark.parametrize("seed", [{}, {"seed": 3.0}], ids=["no seed", "a seed"])
@pytest.mark.parametrize(("module", "op"), [("hidden", "Gemm"), ("words", "Gather"), ("answer", "Gemm")])
def test_mild_noise_is_named_by_the_module_of_the_reference(
    module: str, op: str, seed: dict[str, float], tiny: Path, tmp_path: Path
) -> None:
    told, found = located(planting.planted(tiny, tmp_path, noisy(module, op, **seed)), tiny)

    assert failed(told) == (False, ["determinism"])
    assert found.first is not None
    assert (found.first.module, found.first.op) == (module, "RandomNormalLike")
    assert (found.first.note, found.case) == (NOTE, "determinism: run again")
    assert found.first.source.startswith("models/tiny_fusion.py:")
    assert [layer.module for layer in found.layers if layer.verdict == "bad"] == [module]
    assert Located.from_json(found.to_json()) == found


def test_what_precedes_noise_is_clean_and_what_follows_is_inherited(tiny: Path, tmp_path: Path) -> None:
    _, found = located(planting.planted(tiny, tmp_path, noisy("hidden", "Gemm")), tiny)

    verdicts = {layer.module: layer.verdict for layer in found.layers}
    assert (verdicts["hidden"], verdicts["answer"], verdicts["match"]) == ("bad", "inherited", "inherited")
    assert {verdicts[module] for module in ("stem", "block", "words", "norm", "query", "value")} == {"clean"}
    assert {layer.own_sqnr_db for layer in found.layers if layer.verdict == "inherited"} == {None}


def test_a_weight_that_is_noisy_is_named_by_who_reads_it(tiny: Path, tmp_path: Path) -> None:
    told, found = located(planting.planted(tiny, tmp_path, noisy_weight), tiny)

    assert failed(told) == (False, ["determinism"])
    assert found.first is not None
    assert (found.first.module, found.first.node, found.first.note) == ("query", "noise", NOTE)


def test_noise_that_takes_the_samples_out_of_their_budget_is_named_too(tiny: Path, tmp_path: Path) -> None:
    told, found = located(planting.planted(tiny, tmp_path, noisy("hidden", "Gemm", 0.1)), tiny)

    assert failed(told)[0]
    assert found.first is not None
    assert (found.first.module, found.first.op, found.first.note) == ("hidden", "RandomNormalLike", NOTE)
    assert found.first.cost_db is not None
    assert found.case == ""


@pytest.mark.parametrize(("module", "op"), [("words", "Gather"), ("answer", "Gemm")])
def test_mild_noise_is_named_beside_a_layer_that_is_wrong(module: str, op: str, tiny: Path, tmp_path: Path) -> None:
    def both(model: onnx.ModelProto) -> None:
        noisy(module, op)(model)
        planting.bias_lost("hidden")(model)

    told, found = located(planting.planted(tiny, tmp_path, both), tiny)

    assert failed(told)[0]
    bad = {layer.module: layer.note for layer in found.layers if layer.verdict == "bad"}
    assert bad == {module: NOTE, "hidden": ""}
    assert found.first is not None
    assert found.first.module == next(iter(bad))


def test_noise_is_named_before_a_hard_case_is_asked(tiny: Path, tmp_path: Path) -> None:
    """One event can't tell a layer from its precision: the lost bias stands for what INT8 alone does to one."""

    def both(model: onnx.ModelProto) -> None:
        noisy("answer", "Gemm")(model)
        planting.bias_lost("hidden")(model)

    candidate, feed = planting.planted(tiny, tmp_path, both), feed_of(tiny)
    bounds = dict.fromkeys(Part(tiny).outputs, 60.0)
    hard = Trial(feeds=[feed], bounds=bounds, case="batch: batch = 1", failed=True)
    again = Trial(feeds=[feed], bounds=bounds, case="determinism: run again", failed=True, how="again")

    found = locate(tiny, candidate, [hard, again], scratch=tmp_path)
    assert found.first is not None
    assert (found.first.module, found.case) == ("answer", again.case)
    quiet = planting.planted(tiny, tmp_path, planting.bias_lost("hidden"))
    found = locate(tiny, quiet, [hard, again], scratch=tmp_path)
    assert found.first is not None
    assert (found.first.module, found.case) == ("hidden", hard.case)


def test_noise_on_an_input_is_named_by_the_layer_that_reads_it(tiny: Path, tmp_path: Path) -> None:
    """Nothing before it is the reference's."""

    def plant(model: onnx.ModelProto) -> None:
        for node in planting.of_module(model, "stem", "Conv"):
            node.input[0] = "image.noisy"
        noise = helper.make_node("RandomNormalLike", ["image"], ["image.noise"], name="noise", scale=MILD)
        model.graph.node.insert(0, noise)
        model.graph.node.insert(1, helper.make_node("Add", ["image", "image.noise"], ["image.noisy"], name="add"))

    told, found = located(planting.planted(tiny, tmp_path, plant), tiny)

    assert failed(told) == (False, ["determinism"])
    assert found.first is not None
    assert (found.first.module, found.first.node, found.first.note) == ("stem", "noise", NOTE)


def test_noise_that_reaches_no_output_is_not_called_bad(tiny: Path, tmp_path: Path) -> None:
    def both(model: onnx.ModelProto) -> None:
        noisy("hidden", "Gemm")(model)
        read = planting.of_module(model, "words", "Gather")[-1].output[0]
        model.graph.node.append(helper.make_node("RandomUniformLike", [read], ["aside"], name="aside"))

    _, found = located(planting.planted(tiny, tmp_path, both), tiny)

    assert [layer.module for layer in found.layers if layer.verdict == "bad"] == ["hidden"]


def test_a_node_that_is_random_by_its_own_module_has_it(tiny: Path, tmp_path: Path) -> None:
    candidate = planting.planted(tiny, tmp_path, planting.dropout_left_on("norm", "LayerNormalization"))
    told, found = located(candidate, tiny)

    assert "determinism" in failed(told)[1]
    assert found.first is not None
    assert (found.first.module, found.first.op, found.first.note) == ("dropout", "Dropout", NOTE)


@pytest.mark.parametrize("seed", [{}, {"seed": 3.0}], ids=["no seed", "a seed"])
def test_noise_is_reduced_to_its_node_which_says_two_things(seed: dict[str, float], tiny: Path, tmp_path: Path) -> None:
    candidate = planting.planted(tiny, tmp_path, noisy("hidden", "Gemm", **seed))
    _, found = located(candidate, tiny, tmp_path / "small.onnx")

    assert found.reduced is not None
    assert "run twice" in found.note
    model = load_model(tmp_path / "small.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["RandomNormalLike"]
    arrays = dict(np.load(tmp_path / "small.npz"))
    once = arrays.pop(f"output.{model.graph.output[0].name}")
    session = ort.InferenceSession(model.SerializeToString())
    first, second = (session.run(None, arrays)[0] for _ in range(2))
    assert first.shape == once.shape
    assert not np.array_equal(first, second)


def test_a_node_that_says_the_same_each_time_is_no_small_model(tiny: Path, tmp_path: Path) -> None:
    part = Part(tiny)
    with pytest.raises(MeasurementError, match="is gone once its nodes stand by themselves"):
        reduce_random(part, "answer", feed_of(tiny), tmp_path / "small.onnx")


def test_a_graph_that_says_the_same_names_nothing_and_why_is_told(tiny: Path, tmp_path: Path) -> None:
    """As an engine that is random, which its ONNX is not."""
    told, _ = located(planting.planted(tiny, tmp_path, noisy("hidden", "Gemm")), tiny)
    notes: list[str] = []
    context = Context(cache=StageCache(None), note=notes.append)
    candidate = planting.planted(tiny, tmp_path, lambda _: None)

    found = locate_files(context, request_for(candidate, tiny), told)

    assert (found.first, {layer.verdict for layer in found.layers}) == (None, {"clean"})
    assert any("says the same each time" in note for note in notes)


def test_each_random_node_shows_and_what_is_behind_it_does_not(tiny: Path, tmp_path: Path) -> None:
    def three(model: onnx.ModelProto) -> None:
        noisy("words", "Gather")(model)
        noisy("hidden", "Gemm")(model)
        noisy("answer", "Gemm", seed=2.0)(model)

    part = Part(planting.planted(tiny, tmp_path, three))
    found = run_again(part, [feed_of(tiny)])

    random = [name for name in part.makers if name.endswith(".noise")]
    assert len(random) == 3
    assert [*found.random] == random
    own = {name for name, row in found.errors.items() if row.own is not None and row.own.noise}
    assert own == {*random}


def test_a_graph_without_noise_shows_none(tiny: Path) -> None:
    part = Part(tiny)
    found = run_again(part, [feed_of(tiny)])

    assert found.random == {}
    assert found.errors.keys() == {name for index in part.moving for name in part.nodes[index].output}
    assert {row.inherited.noise for row in found.errors.values()} == {0.0}


def test_a_tensor_stands_in_the_nearest_that_is_made_of_it(tiny: Path) -> None:
    part = Part(tiny)
    answer = next(node for node in part.nodes if "answer" in node.output)
    assert place_of(part, answer.input[0], {"answer", "match"}) in {"answer", "match"}
    assert place_of(part, "answer", {"answer", "match"}) == "answer"
    assert place_of(part, "answer", {"match"}) is None
