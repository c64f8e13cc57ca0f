"""What feeds what is checked as a whole, and a step is run to the end of each phrase, whatever runs it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mmtrt.errors import InputError, ModelError
from mmtrt.parity.phrases import chain_budget, compare_chain
from mmtrt.parts import TOKENS, Chain, Manifest, Step, Wiring, read_manifest, write_manifest
from mmtrt.parts.greedy import generate
from mmtrt.parts.grouping import in_order, most_rows
from mmtrt.parts.wiring import Port, read_links
from mmtrt.results import Ran
from mmtrt.tensors import Array, Feeds, ModelSpec, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

WORDS, START, END, PAD, STEPS = 6, 1, 2, 0, 5
STEP = Step(
    part="speaker",
    token="token",
    logits="logits",
    cache={"past": "present"},
    start=START,
    end=END,
    pad=PAD,
    steps=STEPS,
    length="slots",
)


def tensor(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name=name, dtype=dtype, shape=shape)


EYE = ModelSpec(inputs=(tensor("image", "batch", 3),), outputs=(tensor("regions", "batch", 4),))
SPEAKER = ModelSpec(
    inputs=(
        tensor("token", "batch", 1, dtype="int64"),
        tensor("seen", "batch", 4),
        tensor("past", "batch", "slots", 1, dtype="int64"),
    ),
    outputs=(tensor("logits", "batch", WORDS), tensor("present", "batch", "slots + 1", 1, dtype="int64")),
    ranges={"batch": (1, 2, 8)},
)


def wiring(parts: Mapping[str, ModelSpec] | None = None, **changes: Any) -> Wiring:
    links = {Port("speaker", "seen"): Port("eye", "regions")}
    given = {"parts": parts or {"eye": EYE, "speaker": SPEAKER}, "links": links, "outputs": {}, "step": STEP, **changes}
    return Wiring(**given)


# ------------------------------------------------------------------------------------------------ what feeds what


@pytest.mark.parametrize(
    ("links", "message", "fix"),
    [
        (["eye.regions -> speeker.seen"], "there is no part 'speeker'", "Did you mean 'speaker'?"),
        (["eye -> speaker.seen"], "'eye' names no tensor", "part.tensor"),
        (["eye.regions speaker.seen"], "is no link", "->"),
        (["eye.a -> speaker.seen", "eye.b -> speaker.seen"], "speaker.seen is fed twice: by eye.a and by eye.b", "out"),
        (["speaker.logits -> eye.image"], "leads backwards: the parts run as eye, speaker", "order"),
        (["eye.regions -> eye.image"], "leads backwards", "order"),
    ],
)
def test_a_link_that_can_t_be_is_told(links: list[str], message: str, fix: str) -> None:
    with pytest.raises(ModelError) as caught:
        read_links(links, ["eye", "speaker"])
    assert message in caught.value.message
    assert fix in str(caught.value.fix)


def test_links_are_read() -> None:
    read = read_links(["eye.a.b -> speaker.past_key.0"], ["eye", "speaker"])
    assert read == {Port("speaker", "past_key.0"): Port("eye", "a.b")}


@pytest.mark.parametrize(
    ("eye", "message"),
    [
        (tensor("regions", "batch", 4, dtype="float16"), "eye.regions is float16, and speaker.seen takes float32"),
        (tensor("regions", "batch", 5), "eye.regions has the shape (batch, 5), and speaker.seen takes (batch, 4)"),
        (tensor("regions", "batch", 4, 1), "has the shape (batch, 4, 1)"),
        (tensor("region", "batch", 4), "the part 'eye' has no output 'regions'"),
    ],
)
def test_what_does_not_fit_is_told(eye: TensorSpec, message: str) -> None:
    spec = dataclasses.replace(EYE, outputs=(eye,))
    with pytest.raises(ModelError) as caught:
        wiring({"eye": spec, "speaker": SPEAKER})
    assert message in caught.value.message
    assert caught.value.fix


def test_an_output_that_feeds_nothing_is_told() -> None:
    more = dataclasses.replace(EYE, outputs=(*EYE.outputs, tensor("waste", "batch", 9)))
    with pytest.raises(ModelError, match=r"the output eye\.waste feeds nothing"):
        wiring({"eye": more, "speaker": SPEAKER})
    assert wiring({"eye": more, "speaker": SPEAKER}, outputs={"waste": Port("eye", "waste")}).outputs


def test_parts_share_an_input_of_one_name_or_are_told_apart() -> None:
    shared = dataclasses.replace(SPEAKER, inputs=(*SPEAKER.inputs, tensor("image", "batch", 3)))
    assert wiring({"eye": EYE, "speaker": shared}).inputs == EYE.inputs
    other = dataclasses.replace(SPEAKER, inputs=(*SPEAKER.inputs, tensor("image", "batch", 7)))
    with pytest.raises(ModelError, match="'eye' takes image: float32"):
        wiring({"eye": EYE, "speaker": other})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "speeker"}, "there is no part 'speeker' to step"),
        ({"part": "eye"}, "is not the last part"),
        ({"token": "seen"}, "the token of 'speaker' is seen: float32"),
        ({"logits": "logit"}, "has no output 'logit'"),
        ({"length": "past"}, "has no size 'past' that grows"),
        ({"cache": {"past": "logits"}}, "can't take the place of past"),
        ({"steps": 0}, "is run 0 times"),
    ],
)
def test_a_step_that_can_t_be_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        wiring(step=dataclasses.replace(STEP, **changes))
    assert message in caught.value.message
    assert caught.value.fix


def test_a_wiring_comes_back_from_json() -> None:
    given = wiring()
    assert Wiring.from_json(json.loads(json.dumps(given.to_json()))) == given


def test_a_manifest_comes_back_and_names_no_file_elsewhere(tmp_path: Path) -> None:
    files = {"eye": {"fp32": {"onnx": "a.eye.onnx"}}, "speaker": {"fp32": {"onnx": "a.speaker.onnx"}}}
    chains = {"fp32": {"eye": "fp32", "speaker": "fp32"}}
    given = Manifest(name="a", source="m:f", digest="0", wiring=wiring(), files=files, chains=chains)
    path = write_manifest(given, tmp_path)
    assert path.name == "a.pipeline.json"
    assert read_manifest(path) == given
    for text, wrong in (("a.eye.onnx", "../a.eye.onnx"), ("a.eye.onnx", "/etc/passwd"), ('"links"', '"lonks"')):
        broken = tmp_path / "broken.json"
        broken.write_text(path.read_text().replace(text, wrong))
        with pytest.raises(InputError):
            read_manifest(broken)


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (None, "chains is None"),
        (["fp32"], "chains is"),
        ({"fp32": None}, "the chain 'fp32' has None; the parts are eye, speaker"),
        ({"fp32": {"eye": "fp32"}}, "the chain 'fp32' has eye; the parts are eye, speaker"),
        ({"fp32": {"eye": "fp32", "speeker": "fp32"}}, "has eye, speeker; the parts are"),
        ({"int8": {"eye": "fp32", "speaker": "int8"}}, "the chain 'int8' has no files of 'speaker' in 'int8'"),
        ({"int8": {"eye": ["fp32"], "speaker": "fp32"}}, "has no files of 'eye' in ['fp32']"),
    ],
)
def test_a_manifest_whose_chains_are_none_is_told(tmp_path: Path, chains: Any, message: str) -> None:
    files = {part: {"fp32": {"onnx": f"a.{part}.onnx"}} for part in ("eye", "speaker")}
    path = write_manifest(Manifest(name="a", source="m:f", digest="0", wiring=wiring(), files=files), tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "chains": chains}))
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    assert message in caught.value.message
    assert "mmtrt run" in str(caught.value.fix)


# ------------------------------------------------------------------------------------------------------- a step


class Eye:
    """Passes on what it sees."""

    runs = "numpy"
    inputs = outputs = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        return {"regions": np.repeat(feeds["image"][:, :1], 4, axis=1)}


class Speaker(Eye):
    """Counts up from what is seen to the last word, then ends: a row that sees 3 says 3, 4, 5, end."""

    def __init__(self, noise: float = 0.0, stutter: float | None = None) -> None:
        self.noise = noise
        self.stutter = stutter
        self.slots: list[int] = []

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        past, token = feeds["past"], feeds["token"]
        assert not past[:, 0].any(), "slot 0 is empty"
        self.slots.append(past.shape[1])
        first = past.shape[1] == 1
        following = np.where(first, feeds["seen"][:, 0], token[:, 0] + 1).astype(int)
        following = np.where(following >= WORDS, END, following)
        if self.stutter is not None:
            following = np.where(feeds["seen"][:, 0] == self.stutter, END, following)
        logits = np.eye(WORDS, dtype=np.float32)[following % WORDS] + np.float32(self.noise)
        return {"logits": logits, "present": np.concatenate([past, token[:, :, None]], axis=1)}


def images(*firsts: float) -> Feeds:
    return {"image": np.array([[first, 0, 0] for first in firsts], dtype=np.float32)}


def test_each_row_is_run_to_its_own_end() -> None:
    speaker = Speaker()
    with Chain(wiring(), {"eye": Eye(), "speaker": speaker}) as chain:
        answer = chain.run(images(5, 3, 4))
    assert answer.phrases() == [(5, 2), (3, 4, 5, 2), (4, 5, 2)]
    assert answer.outputs[TOKENS].tolist() == [[5, 2, PAD, PAD], [3, 4, 5, 2], [4, 5, 2, PAD]]
    assert answer.outputs["logits"].shape == (3, 4, WORDS)
    assert speaker.slots == [1, 2, 3, 4]
    assert [row["logits"].shape for row in answer.rows()] == [(2, WORDS), (4, WORDS), (3, WORDS)]


def test_a_phrase_without_an_end_has_the_most_tokens() -> None:
    class Endless(Speaker):
        def infer(self, feeds: Feeds) -> dict[str, Array]:
            return {**super().infer(feeds), "logits": np.eye(WORDS, dtype=np.float32)[[4] * len(feeds["token"])]}

    with Chain(wiring(), {"eye": Eye(), "speaker": Endless()}) as chain:
        assert chain.run(images(5, 3)).phrases() == [(4,) * STEPS] * 2


def test_a_step_is_led_along_another_run_s_tokens() -> None:
    given = {"seen": np.full((2, 4), 3, dtype=np.float32)}
    seen: list[tuple[list[int], list[bool]]] = []

    def watch(feeds: Feeds, going: Array) -> None:
        seen.append((feeds["token"][:, 0].tolist(), going.tolist()))

    told = generate(STEP, SPEAKER, Speaker(), given, forced=np.array([[5, 5, 2], [4, 2, 0]]), watch=watch)
    assert told.tokens.tolist() == [[5, 5, 2], [4, 2, 0]]
    assert told.counts.tolist() == [[True, True, True], [True, True, False]]
    assert seen == [([START, START], [True, True]), ([5, 4], [True, True]), ([5, 2], [True, False])]


def test_events_of_equal_shapes_run_together_in_their_order() -> None:
    sizes = [2, 3, 2, 2, 3, 2]
    events = [{"x": np.full(size, index)} for index, size in enumerate(sizes)]
    groups: list[list[int]] = []

    def run(samples: Any) -> list[int]:
        groups.append([int(sample["x"][0]) for sample in samples])
        return [10 * index for index in groups[-1]]

    assert [told for _, told in in_order(events, ["x"], 3, run)] == [0, 10, 20, 30, 40, 50]
    assert groups == [[0, 2, 3], [5], [1, 4]]
    assert most_rows(SPEAKER) == 8
    assert most_rows(ModelSpec(inputs=(tensor("x", 1, 4),), outputs=())) == 1


# ---------------------------------------------------------------------------------------------------- end to end


def golden(*firsts: float) -> list[dict[str, Array]]:
    found = []
    with Chain(wiring(), {"eye": Eye(), "speaker": Speaker()}) as chain:
        for first in firsts:
            row = chain.run(images(first)).rows()[0]
            found.append({"image": images(first)["image"][0], **{f"output.{name}": a for name, a in row.items()}})
    return found


def compared(speaker: Speaker, precision: str = "fp32") -> Any:
    return compare_chain(
        Chain(wiring(), {"eye": Eye(), "speaker": speaker}),
        wiring(),
        "chain",
        precision,
        golden(5, 3, 4, 3),
        budget=chain_budget(precision, STEP),
        reference=Ran(what="modules", runs="numpy"),
    )


def test_the_same_phrases_pass() -> None:
    check = compared(Speaker())
    assert check.verdict == "pass"
    assert check.samples == 4
    metrics = check.outputs["logits"].metrics
    assert (metrics["phrase_agreement"], metrics["max_abs"]) == (1.0, 0.0)


def test_another_phrase_fails_though_the_logits_are_compared_along_the_golden_one() -> None:
    check = compared(Speaker(stutter=4))
    assert check.verdict == "fail"
    output = check.outputs["logits"]
    assert output.metrics["phrase_agreement"] == 0.75
    assert "phrase_agreement 0.75 is below 1" in output.why
    # Two of its three steps differ from what the golden phrase says there: it is not cut off at the first.
    assert output.metrics["argmax_agreement"] == pytest.approx(1 - 2 / 13)
    # What INT8 may say otherwise is for a recipe to bound.
    assert not any("phrase" in why for why in compared(Speaker(stutter=4), "int8").outputs["logits"].why)


def test_four_equal_phrases_show_no_four_fifths() -> None:
    check = compared(Speaker(), "fp16")
    output = check.outputs["logits"]
    assert check.verdict == output.verdict == "inconclusive"
    assert output.intervals["phrase_agreement"] == pytest.approx((0.5101, 1), abs=1e-4)
    assert "4 samples can't tell; about 16 would" in output.why[0]


def test_a_recipe_s_bound_on_phrases_stands_for_the_default_and_other_bounds_do_not() -> None:
    assert chain_budget("fp16", STEP, {"sqnr_db": 30}) == {"sqnr_db": 30, "logits:phrase_agreement": 0.8}
    for key in ("phrase_agreement", "logits:phrase_agreement"):
        assert chain_budget("fp16", STEP, {key: 0.5}) == {key: 0.5}
    assert chain_budget("int8", STEP) == chain_budget("fp16", None) == {}


def test_nothing_finite_fails() -> None:
    check = compared(Speaker(noise=float("nan")))
    assert check.verdict == "fail"
    assert check.outputs["logits"].metrics["non_finite"]


def test_a_task_metric_of_an_output_is_measured_on_both() -> None:
    whole = wiring(outputs={"regions": Port("eye", "regions")})
    chain = Chain(whole, {"eye": Eye(), "speaker": Speaker()})
    # All four are equal, so that the first is told; the second event's label says otherwise.
    regions = {"output.regions": np.full(4, 3, dtype=np.float32)}
    events = [{**golden(3)[0], **regions, "label.regions": np.array(label)} for label in (0, 1)]
    check = compare_chain(
        chain,
        whole,
        "chain",
        "fp32",
        events,
        budget={"regions:accuracy_drop": 0.0},
        reference=Ran(what="modules", runs="numpy"),
        metrics={"regions": ["accuracy"]},
    )
    assert check.outputs["regions"].task == check.outputs["regions"].reference_task == {"accuracy": 0.5}
    assert check.verdict == "pass"


def test_golden_outputs_are_needed() -> None:
    with pytest.raises(InputError, match="no golden output 'tokens'"):
        compare_chain(
            Chain(wiring(), {"eye": Eye(), "speaker": Speaker()}),
            wiring(),
            "chain",
            "fp32",
            [{"image": images(3)["image"][0]}],
            budget={},
            reference=Ran(what="modules", runs="numpy"),
        )
