from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmtrt.engine.targets import load_target
from mmtrt.errors import RecipeError
from mmtrt.recipe import load_recipe, resolved
from mmtrt.results import STRESS_KINDS

WHOLE = """
name = "vqa"
description = "all that can be said"

[model]
source = "zoo:vqa-coattention"
opset = 18
ranges = {batch = [1, 2, 8], text = [4, 8, 16]}

[precision]
build = ["fp16", "int8"]
method = "percentile"
keep = ["/head"]

[calibration]
set = "vqa-calibration"
count = 256

[parity]
set = "vqa-parity"
count = 64
metrics = {answer = "accuracy", match = ["f1", "accuracy"]}
budget.int8 = {"answer:sqnr_db" = 20, accuracy_drop = 0.01}

[bench]
duration_s = 1
sizes = {batch = 1}

[target]
name = "orin"
flavor = "tensorrt"
"""
LEAST = '[model]\nsource = "zoo:vqa"\n'


def load(folder: Path, text: str, name: str = "vqa.toml") -> Any:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def refused(folder: Path, text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load(folder, text)
    assert caught.value.message.startswith(str(folder / "vqa.toml"))
    assert caught.value.exit_code == 2
    return caught.value


def test_a_whole_recipe_is_read(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    assert recipe.name == "vqa"
    assert recipe.model.ranges["text"] == (4, 8, 16)
    assert recipe.precision.build == ("fp16", "int8")
    assert recipe.parity.metrics == {"answer": ("accuracy",), "match": ("f1", "accuracy")}
    assert recipe.parity.budget == {"int8": {"answer:sqnr_db": 20, "accuracy_drop": 0.01}}
    assert recipe.target.flavor == "tensorrt"


def test_the_least_recipe_has_its_file_s_name_and_the_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path, LEAST, "small.toml")
    assert recipe.name == "small"
    assert recipe.precision.build == ("fp32", "fp16", "int8")
    assert recipe.calibration.set is None
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        (f"{LEAST}[precison]\n", "precison", "Did you mean 'precision'?"),
        (f"modle = 1\n{LEAST}", "modle", "Did you mean 'model'?"),
        ('[modle]\nsource = "x"\n', "modle", "Did you mean 'model'?"),
        ('[model]\nsorce = "x"\n', "model.sorce", "Did you mean 'source'?"),
        (f"{LEAST}opst = 18\n", "model.opst", "Did you mean 'opset'?"),
        (f'{LEAST}[precision]\nmethd = "max"\n', "precision.methd", "Did you mean 'method'?"),
        (f"{LEAST}[calibration]\ncounts = 3\n", "calibration.counts", "Did you mean 'count'?"),
        (f"{LEAST}[parity]\nbudgets = 3\n", "parity.budgets", "Did you mean 'budget'?"),
        (f"{LEAST}[bench]\nduration = 3\n", "bench.duration", "Did you mean 'duration_s'?"),
        (f'{LEAST}[target]\nflavour = "auto"\n', "target.flavour", "Did you mean 'flavor'?"),
        (f"{LEAST}[target]\nzzz = 1\n", "target.zzz", "Known here are flavor, name."),
        (f"{LEAST}[parts.eye]\nnarowest = 1\n", "parts.eye.narowest", "Did you mean 'narrowest'?"),
        (f"{LEAST}[part.eye]\n", "part", "Did you mean 'parts'?"),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(tmp_path: Path, text: str, key: str, fix: str) -> None:
    error = refused(tmp_path, text)
    assert f"unknown key {key!r}" in error.message
    assert error.fix == fix


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", "model", "is missing"),
        ("[model]\n", "model.source", "is missing"),
        ("[model]\nsource = 3\n", "model.source", "valid string"),
        (f"{LEAST}opset = 12\n", "model.opset", "greater than or equal to 17"),
        (f"{LEAST}opset = []\n", "model.opset", "valid integer"),
        (f"{LEAST}ranges = {{batch = [8, 2, 1]}}\n", "model.ranges", "[8, 2, 1]: give [min, opt, max]"),
        (f"{LEAST}ranges = {{batch = [1, 9, 8]}}\n", "model.ranges", "[1, 9, 8]"),
        (f"{LEAST}ranges = {{batch = [1, 2]}}\n", "model.ranges.batch.2", "is missing"),
        (f"{LEAST}ranges = {{batch = [0, 1, 2]}}\n", "model.ranges.batch.0", "greater than 0"),
        (f'{LEAST}[precision]\nbuild = ["fp8"]\n', "precision.build.0", "'fp32', 'fp16' or 'int8'"),
        (f"{LEAST}[precision]\nbuild = []\n", "precision.build", "at least 1"),
        (f'{LEAST}[parts.eye]\nnarrowest = "fp8"\n', "parts.eye.narrowest", "'fp32', 'fp16' or 'int8'"),
        (f"{LEAST}[parts.eye]\nbudget.int8 = {{cosine = nan}}\n", "parts.eye.budget.int8.cosine", "finite"),
        (f'{LEAST}[precision]\nmethod = "percents"\n', "precision.method", "'percentile'"),
        (f"{LEAST}[calibration]\ncount = 0\n", "calibration.count", "greater than 0"),
        (f"{LEAST}[parity]\nbudget.fp8 = {{cosine = 1}}\n", "parity.budget.fp8", "'fp32', 'fp16' or 'int8'"),
        (f'{LEAST}[parity]\nbudget.int8 = {{cosine = "high"}}\n', "parity.budget.int8.cosine", "valid number"),
        (f"{LEAST}[parity]\nbudget.int8 = {{cosine = nan}}\n", "parity.budget.int8.cosine", "finite"),
        (f'{LEAST}[parity]\nmetrics = {{answer = "acuracy"}}\n', "parity.metrics", "did you mean 'accuracy'?"),
        (f'{LEAST}[parity]\nmetrics = {{answer = "zzz"}}\n', "parity.metrics", "known are accuracy, f1"),
        (f'{LEAST}[parity]\nheads = {{answer = "clases"}}\n', "parity.heads", "did you mean 'classes'?"),
        (f'{LEAST}[parity]\nheads = {{box = "corners"}}\n', "parity.heads", "boxes-cxcywh"),
        (f"{LEAST}[parity]\nmetrics = 5\n", "parity.metrics", "valid dictionary"),
        (f'{LEAST}[parity]\nmetrics = "accuracy"\n', "parity.metrics", "valid dictionary"),
        (f"{LEAST}[parity]\nmetrics = {{answer = 5}}\n", "parity.metrics.answer", "valid tuple"),
        (f"{LEAST}[parity]\nmetrics = {{answer = [5]}}\n", "parity.metrics.answer.0", "valid string"),
        (f"{LEAST}[bench]\nduration_s = 0\n", "bench.duration_s", "greater than 0"),
        (f"{LEAST}[bench]\nduration_s = inf\n", "bench.duration_s", "finite"),
        (f'{LEAST}[bench]\nscenario = "server"\n', "bench.scenario", "'offline'"),
        (f'{LEAST}[bench]\nagainst = ["onnx"]\n', "bench.against.0", "'torch-compile'"),
        (f'{LEAST}[bench]\nagainst = ["torch", "torch"]\n', "bench.against", "twice"),
        (f"{LEAST}[bench]\nsweep.batch = [1, 1]\n", "bench.sweep", "twice"),
        (f"{LEAST}[bench]\nsweep.batch = [0]\n", "bench.sweep.batch.0", "greater than 0"),
        (f"{LEAST}[bench]\nsweep.batch = []\n", "bench.sweep.batch", "at least 1"),
        (f'name = "a/b"\n{LEAST}', "name", "pattern"),
        ("model = 5\n", "model", "valid dictionary"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(tmp_path: Path, text: str, key: str, message: str) -> None:
    error = refused(tmp_path, text)
    assert f"'{key}" in error.message
    assert message in error.message
    assert error.fix


def test_what_is_no_toml_is_told_with_its_line(tmp_path: Path) -> None:
    assert "no valid TOML" in refused(tmp_path, "[model\n").message
    assert "line 2" in refused(tmp_path, '[model]\nsource "x"\n').message


def test_a_file_that_can_t_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "missing.toml")
    with pytest.raises(RecipeError, match="can't read"):
        load_recipe(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(RecipeError, match="can't read"):
        load_recipe(tmp_path / "latin.toml")


def test_the_digest_tells_what_is_meant_not_how_it_is_written(tmp_path: Path) -> None:
    least = load(tmp_path, LEAST).digest
    assert load(tmp_path, f"{LEAST}opset = 18\n[precision]\nmethod = 'auto'\n[bench]\nduration_s = 3\n").digest == least
    one = load(tmp_path, f"{LEAST}ranges = {{a = [1, 1, 1], b = [2, 2, 2]}}\n").digest
    other = load(tmp_path, 'bench = {}\n[model]\nranges = {b = [2, 2, 2], a = [1, 1, 1]}\nsource = "zoo:vqa"\n').digest
    assert one == other
    texts = [LEAST, f"{LEAST}opset = 19\n", '[model]\nsource = "zoo:other"\n', f"{LEAST}[calibration]\ncount = 9\n"]
    assert len({load(tmp_path, text).digest for text in texts}) == 4


def test_the_resolved_recipe_is_plain_data_with_its_digest(tmp_path: Path) -> None:
    recipe = load(tmp_path, WHOLE)
    data = resolved(recipe)
    assert data["digest"] == recipe.digest
    assert data["model"]["ranges"] == {"batch": [1, 2, 8], "text": [4, 8, 16]}
    again = {key: value for key, value in data.items() if key != "digest"}
    assert type(recipe).model_validate(again) == recipe


def test_a_recipe_that_is_not_there_has_a_neighbour(tmp_path: Path) -> None:
    (tmp_path / "vqa-coattention.toml").touch()
    with pytest.raises(RecipeError) as refused:
        load_recipe(tmp_path / "vqa-coatention.toml")
    assert str(tmp_path / "vqa-coattention.toml") in str(refused.value.fix)


def test_a_part_is_as_the_whole_but_for_what_is_said_of_it(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        WHOLE.replace("[bench]", '[parts.decoder]\nnarrowest = "fp16"\nkeep = []\ncoverage = "full"\n\n[bench]'),
    )
    own = recipe.precision_of("decoder")
    assert (own.coverage, own.keep, own.method) == ("full", (), "percentile")
    assert recipe.precision_of("encoder") == recipe.precision
    chains = ("fp32", "fp16", "int8")
    assert [recipe.part("decoder").precision_in(chain) for chain in chains] == ["fp32", "fp16", "fp16"]
    assert [recipe.part("encoder").precision_in(chain) for chain in chains] == list(chains)


def test_all_kinds_of_stress_are_run_unless_a_recipe_names_some(tmp_path: Path) -> None:
    assert load(tmp_path, LEAST).parity.stress == STRESS_KINDS
    assert load(tmp_path, LEAST + "[parity]\nstress = []\n").parity.stress == ()
    some = load(tmp_path, LEAST + '[parity]\nstress = ["masked", "corner", "masked"]\n')
    assert some.parity.stress == ("corner", "masked")
    error = refused(tmp_path, LEAST + '[parity]\nstress = ["maskd"]\n')
    assert "there is no stress 'maskd': did you mean 'masked'?" in error.message


def test_what_a_bundle_s_targets_run(tmp_path: Path) -> None:
    path = tmp_path / "vqa.toml"
    path.write_text(
        'model.source = "zoo:vqa"\nprecision.build = ["int8", "fp32", "fp16"]\n'
        '[bundle]\nversion = "2.1"\ntargets = ["any-rtx", "orin-nano"]\nprecisions.orin-nano = "fp16"\n',
        encoding="utf-8",
    )
    recipe = load_recipe(path)
    assert [recipe.bundled_precision(name) for name in recipe.bundle.targets] == ["int8", "fp16"]
    assert (recipe.bundle.version, recipe.bundle.golden, recipe.bundle.engines) == ("2.1", 16, True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('version = "1.0-rc1"', "version"),
        ('targets = ["a", "a"]', "named twice"),
        ('targets = ["server"]\nprecisions.servre = "fp16"', "did you mean 'server'"),
        ('precision = "fp16"', "fp16 is not built"),
        ('targets = ["server"]\nprecisions.server = "int8"', "int8 is not built"),
        ("golden = 0", "golden"),
        ("goldne = 4", "Did you mean 'golden'"),
    ],
)
def test_a_bundle_that_can_t_be_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "vqa.toml"
    path.write_text(f'model.source = "zoo:vqa"\nprecision.build = ["fp32"]\n[bundle]\n{text}\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert word in str(caught.value)


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "engines/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_each_target_of_a_recipe_s_bundle_is_there(path: Path) -> None:
    recipe = load_recipe(path)
    for name in recipe.bundle.targets:
        assert load_target(str(ROOT / "engines/targets" / f"{name}.toml")).name == name
        assert recipe.bundled_precision(name) in recipe.precision.build


def test_the_guide_s_section_is_one(tmp_path: Path) -> None:
    text = (ROOT / "docs/bundle.md").read_text(encoding="utf-8")
    (section,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    path = tmp_path / "vqa.toml"
    path.write_text(f'model.source = "zoo:vqa"\n{section}', encoding="utf-8")
    told = load_recipe(path).bundle
    assert told.model_fields_set == type(told).model_fields.keys()
