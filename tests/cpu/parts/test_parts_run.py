"""One recipe for a model in several parts: exported, calibrated on what parts really give, built, held to budgets."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
from refusals import Cli, assert_told

from mmtrt.artifacts import StageCache
from mmtrt.errors import MachineError, UsageError
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.parts import read_manifest
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.parts_export import export_parts
from mmtrt.pipeline.parts_run import PartsRunResult
from mmtrt.pipeline.parts_subject import open_chain
from mmtrt.pipeline.run import run_recipe
from mmtrt.recipe import Recipe, load_recipe
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import open_set

RECIPE = """
[model]
source = "parts_fusion:speaking"

[precision]
build = ["int8"]
coverage = "wide"

[calibration]
count = 40

[parts.speaker]
narrowest = "fp16"

[parts.fuser]
keep = ["answer"]

[parts.eye.budget.int8]
sqnr_db = 25

[parity.budget.int8]
"logits:sqnr_db" = 25
"logits:phrase_agreement" = 0.8
"answer:cosine" = 0.99

[bench]
duration_s = 0.02
"""


def recipe_of(folder: Path, text: str = RECIPE) -> Recipe:
    path = folder / "talk.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> StageCache:
    return StageCache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cache: StageCache) -> tuple[PartsRunResult, Path]:
    folder = tmp_path_factory.mktemp("talk")
    result = run_recipe(Context(cache=cache), recipe_of(folder), folder / "made")
    assert isinstance(result, PartsRunResult)
    return result, folder / "made"


def test_each_part_has_its_precision_and_its_files(ran: tuple[PartsRunResult, Path]) -> None:
    result, folder = ran
    assert result.chains == {"int8": {"eye": "int8", "fuser": "int8", "speaker": "fp16"}}
    assert {part: [build.precision for build in row.builds] for part, row in result.parts.items()} == {
        "eye": ["int8"],
        "fuser": ["int8"],
        "speaker": ["fp16"],
    }
    manifest = read_manifest(folder / "talk.pipeline.json")
    assert manifest.chains == result.chains
    for part, precision in manifest.chains["int8"].items():
        for kind in ("onnx", "engine"):
            assert (folder / manifest.files[part][precision][kind]).is_file()
    # What a recipe says of one part is done in this part.
    kept = {part: {row["node"] for row in found.builds[0].kept} for part, found in result.parts.items()}
    assert any("answer" in row["module"] for row in result.parts["fuser"].builds[0].kept), kept


def test_a_later_part_is_calibrated_on_what_the_converted_one_gives(ran: tuple[PartsRunResult, Path]) -> None:
    _, folder = ran
    fuser = list(open_set(str(folder / "talk.fuser.int8.calib")))
    with OrtRunner(folder / "talk.eye.int8.onnx", "parity") as eye:
        given = [
            eye.infer({"image": row["image"][None]})["regions"][0]
            for row in open_set(str(folder / "talk.eye.int8.calib"))
        ]
    assert len(fuser) == len(given) == 40
    for row, regions in zip(fuser, given, strict=True):
        np.testing.assert_allclose(row["regions"], regions, atol=1e-5)
    # And not on what the module gives: that one was not rounded to INT8.
    module = list(open_set(str(folder / "talk.fuser.calib")))
    assert not np.allclose(module[0]["regions"], fuser[0]["regions"], atol=1e-5)
    assert any(not row["mask"].all() for row in fuser), "padded events are among them"


def test_a_step_is_calibrated_over_several_steps_of_its_own(ran: tuple[PartsRunResult, Path]) -> None:
    result, folder = ran
    rows = list(open_set(str(folder / "talk.speaker.fp16.calib")))
    lengths = {row["past_key"].shape[0] for row in rows}
    assert lengths == set(range(1, 9))
    assert all(not row["past_key"][0].any() for row in rows), "slot 0 is empty"
    assert len(rows) > 100
    # The cache of a later step holds what the step gave before, beginning with the start token.
    first, second = rows[0], rows[1]
    assert first["token"].tolist() == [1]
    with OrtRunner(folder / "talk.speaker.onnx", "parity") as step:
        told = step.infer({name: array[None] for name, array in first.items()})
    np.testing.assert_allclose(second["past_key"], told["present_key"][0], atol=1e-5)
    assert second["token"].tolist() == told["logits"].argmax(-1).tolist()
    # What it looks at is the converted fuser's.
    fuser = list(open_set(str(folder / "talk.fuser.int8.calib")))
    with OrtRunner(folder / "talk.fuser.int8.onnx", "parity") as runner:
        fused = runner.infer({name: array[None] for name, array in fuser[0].items()})["fused"]
    np.testing.assert_allclose(first["fused"], fused[0], atol=1e-5)
    assert result.parts["speaker"].builds[0].calibration is not None


def test_parity_and_latency_are_told_per_part_and_end_to_end(ran: tuple[PartsRunResult, Path]) -> None:
    result, folder = ran
    document = json.loads((folder / "report.json").read_text())
    assert document["schema"] == "mmtrt.run-parts/1"
    assert document["verdict"] == "pass", document
    assert document == json.loads(json.dumps(result.to_json()))
    for name, part in document["parts"].items():
        assert {check["verdict"] for check in part["checks"]} == {"pass", "not run"}, name
        assert part["checks"][0]["samples"] >= 32
        assert len(part["bench"]["results"]) == 2
    assert document["parts"]["eye"]["checks"][0]["outputs"]["regions"]["budget"]["sqnr_db"] == 25
    whole, engine = document["checks"]
    assert whole["samples"] == 32
    assert whole["outputs"]["logits"]["phrase_agreement"] >= 0.8
    assert whole["outputs"]["answer"]["sqnr_db"] > 20
    assert engine["verdict"] == "not run"
    assert "built, not run" in engine["candidate"]["note"]
    assert [row["file"] for row in document["bench"]["results"]] == ["parts_fusion:speaking", "talk int8 (onnx)"]


def test_a_second_run_does_nothing(ran: tuple[PartsRunResult, Path], cache: StageCache, tmp_path: Path) -> None:
    _, folder = ran
    again = run_recipe(Context(cache=cache), recipe_of(tmp_path), folder)
    assert again.cached


def test_another_runtime_is_checked_anew(
    ran: tuple[PartsRunResult, Path], cache: StageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "onnxruntime" else version(name))
    again = run_recipe(Context(cache=cache), recipe_of(tmp_path), ran[1])
    assert isinstance(again, PartsRunResult)
    assert not any(check.cached for check in again.checks)
    # The parts give what they gave, so that nothing is built anew.
    assert all(build.cached for row in again.parts.values() for build in row.builds)


def test_the_recipe_s_budgets_are_what_is_held(ran: tuple[PartsRunResult, Path]) -> None:
    result, _ = ran
    whole = result.checks[0]
    logits, answer = (whole.outputs[name].budget for name in ("logits", "answer"))
    assert {"non_finite": 0, "sqnr_db": 25, "phrase_agreement": 0.8}.items() <= logits.items()
    assert "cosine" not in logits
    assert answer["cosine"] == 0.99
    assert whole.outputs["logits"].intervals["phrase_agreement"][0] >= 0.8
    assert result.within_budget
    assert not dataclasses.replace(result, checks=(dataclasses.replace(whole, verdict="fail"),)).within_budget
    eye = result.parts["eye"]
    failed = dataclasses.replace(eye, checks=(dataclasses.replace(eye.checks[0], verdict="fail"),))
    assert not dataclasses.replace(result, parts={**result.parts, "eye": failed}).within_budget


def test_a_budget_for_phrases_of_an_output_without_any_is_refused(
    ran: tuple[PartsRunResult, Path], cache: StageCache, tmp_path: Path
) -> None:
    assert ran[0].within_budget
    told: list[str] = []
    other = RECIPE.replace('"logits:phrase_agreement"', '"answer:phrase_agreement"')
    with pytest.raises(UsageError, match="'answer' generates none") as caught:
        run_recipe(Context(cache=cache, stage=told.append), recipe_of(tmp_path, other), tmp_path / "made")
    assert caught.value.fix == "It holds for logits."
    assert all(text.startswith("export ") for text in told), "before anything is built"


def test_parts_have_hard_cases_and_the_whole_has_none(
    ran: tuple[PartsRunResult, Path], cache: StageCache, tmp_path: Path
) -> None:
    for part in ran[0].parts.values():
        for check in part.checks:
            kinds = {case.kind for case in check.stress}
            assert kinds <= {"corner", "batch", "length", "determinism", "batch-invariance"}
            assert ("corner" in kinds) == (check.verdict != "not run")
    other = RECIPE.replace('"logits:phrase_agreement"', '"masked/logits:sqnr_db"')
    with pytest.raises(UsageError, match="end to end has none") as caught:
        run_recipe(Context(cache=cache), recipe_of(tmp_path, other), tmp_path / "made")
    assert "parts.NAME" in str(caught.value.fix)


def test_the_commands_take_a_pipeline(
    ran: tuple[PartsRunResult, Path], cache: StageCache, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = ran
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(cache.root))
    Path("talk.toml").write_text(RECIPE, encoding="utf-8")
    said = cli("run", "talk.toml", "-o", folder)
    assert said.code == 0, said.err
    for words in ("speaker", "end to end", "talk int8 (onnx)", "eye int8, fuser int8, speaker fp16", "built, not run"):
        assert words in said.out
    said = cli("inspect", folder / "talk.pipeline.json")
    assert said.code == 0, said.err
    assert "fuser.fused -> speaker.fused" in said.out
    assert "at most 8 tokens" in said.out


def test_the_manifest_is_enough_to_run_the_parts(ran: tuple[PartsRunResult, Path]) -> None:
    _, folder = ran
    subject = open_chain(folder / "talk.pipeline.json", "int8")
    events = list(open_set(str(folder / "talk.golden")))[:8]
    with subject.exact() as chain:
        assert [tensor.name for tensor in chain.outputs] == ["answer", "logits", "tokens"]
        told = [chain.infer({n: event[n][None] for n in ("image", "ids", "mask")}) for event in events]
    golden = [event["output.tokens"].tolist() for event in events]
    assert sum(a["tokens"][0].tolist() == b for a, b in zip(told, golden, strict=True)) >= 6
    with pytest.raises(UsageError, match="no chain 'int4'"):
        open_chain(folder / "talk.pipeline.json", "int4")
    with pytest.raises(MachineError, match="built, not run"):
        open_chain(folder / "talk.pipeline.json", "int8", "engine")


class Killed(BaseException):
    pass


def test_an_interrupted_export_goes_on_where_it_stopped(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = StageCache(tmp_path / "cache")
    source = open_source("parts_fusion:two")
    assert isinstance(source, PipelineSource)

    def stop(text: str) -> None:
        if text == "what fuser is fed":
            raise Killed

    with pytest.raises(Killed):
        export_parts(Context(cache=own, stage=stop), source, opset=18)
    assert not list(tmp_path.rglob("*.part"))
    told: list[str] = []
    made = export_parts(Context(cache=own, stage=told.append), source, opset=18)
    assert {name: part.cached for name, part in made.parts.items()} == {"eye": True, "fuser": False}
    assert not any(text.startswith("what eye is fed") for text in told)
    # The command finds all of it done, and puts the files where they are wanted.
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(own.root))
    said = cli("export", "parts_fusion:two", "-o", "made", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["cached"]
    assert found["schema"] == "mmtrt.export-parts/1"
    assert list(found["parts"]) == ["eye", "fuser"]
    for part in found["parts"]:
        for kind in ("onnx", "calib", "golden"):
            assert Path("made", f"parts_fusion-two.{part}.{kind}").exists()
    assert Path(found["artifacts"]["manifest"]).is_file()


def test_a_chain_is_checked_against_golden_events(ran: tuple[PartsRunResult, Path], cli: Cli) -> None:
    _, folder = ran
    manifest, golden = folder / "talk.pipeline.json", folder / "talk.golden"
    easy = ("--budget", "sqnr_db=10", "--budget", "phrase_agreement=0.5")
    said = cli("check", manifest, "--against", golden, *easy, "--stress", "corner", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["candidate"]["what"] == str(manifest)
    assert found["candidate"]["precision"] == "int8"
    assert found["outputs"]["logits"]["phrase_agreement"] >= 0.5
    assert [(case["kind"], case["verdict"]) for case in found["stress"]] == [("corner", "not run")]
    assert "none are run on a pipeline" in said.err
    # The same check is its own baseline.
    Path("before.json").write_text(said.out, encoding="utf-8")
    named = cli("check", f"{manifest}#int8", "--against", golden, *easy, "--baseline", "before.json", "--json")
    assert named.code == 0, named.err
    assert json.loads(named.out)["drift"]["verdict"] == "pass"


def test_a_chain_s_check_says_what_it_lacks(ran: tuple[PartsRunResult, Path], cli: Cli) -> None:
    _, folder = ran
    manifest, golden = folder / "talk.pipeline.json", folder / "talk.golden"
    assert_told(cli("check", f"{manifest}#int4", "--against", golden), 2, "no chain 'int4'", "int8")
    assert_told(cli("check", f"{manifest}#int8/plan", "--against", golden), 2, "not of 'plan'", "/engine")
    assert_told(cli("check", manifest, "--against", "parts_fusion:speaking"), 3, "no golden events", "talk.golden")
    assert_told(cli("check", manifest, "--against", golden, "--budget", "accuracy_drop=0"), 2, "not measured")
