"""A wrong command line, a wrong recipe or a wrong shape: exit 2, what is wrong, and the nearest right one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from refusals import Cli, assert_refused


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("buidl m.onnx", ("'buidl'", "'build'")),
        ("build m.onnx --fp61", ("--fp61", "--fp16")),
        ("build", ("MODEL.onnx", "mmtrt build --help")),
        ("build TINY --int8 --fp16", ("--fp16", "--int8", "exclude")),
        ("build TINY --fp32 --fp16 --int8", ("--fp32", "--int8", "exclude")),
        ("build TINY --samples 0", ("--samples",)),
        ("build TINY --flavor tensorrt-rxt", ("'tensorrt-rxt'", "'tensorrt-rtx'")),
        ("build TINY --target orin-nanno", ("'orin-nanno'",)),
        ("build TINY --opt-shapes idz:1x4", ("'idz'", "image, ids, mask")),
        ("build TINY --opt-shapes ids:1", ("'ids'", "2 axes", "(batch, text)")),
        ("build TINY --opt-shapes ids:scalar", ("'ids'", "2 axes")),
        ("build TINY --opt-shapes ids:[]", ("'ids'", "2 axes")),
        ("build TINY --opt-shapes ids=1x4", ("'ids=1x4'", "name:1x3x224x224")),
        ("build TINY --opt-shapes ids:1x4,ids:1x5", ("'ids'", "twice")),
        ("build TINY --opt-shapes image:1x4x16x16", ("'image'", "3", "4")),
        ("build TINY --min-shapes ids:4x4 --opt-shapes ids:2x4", ("'batch'", "'ids'", "4, 2", "min <= opt <= max")),
        ("build TINY --opt-shapes ids:1x8 --max-shapes ids:1x4", ("'text'", "'ids'", "8, 4", "min <= opt <= max")),
        ("build TINY --opt-shapes ids:1x4,mask:1x5", ("'text'", "'mask'", "same")),
        ("bench TINY --shapes ids:1x50", ("text", "50", "2 to 8")),
        ("bench TINY --shapes ids:99x4", ("batch", "99", "1 to 8")),
        ("bench TINY --shapes idz:1x4", ("'idz'", "image, ids, mask")),
        ("bench TINY --shapes ids:4", ("'ids'", "2 axes")),
        ("bench TINY --duration nan", ("--duration",)),
        ("bench TINY --duration 0", ("--duration",)),
        ("check TINY", ("--against",)),
        ("check TINY --against TINY --budget sqnr=3", ("'sqnr'", "'sqnr_db'")),
        ("check TINY --against TINY --budget anser:sqnr_db=3", ("'anser:sqnr_db'", "'answer'")),
        ("check TINY --against TINY --budget sqnr_db", ("'sqnr_db'", "OUTPUT:METRIC=VALUE")),
        ("check TINY --against TINY --budget sqnr_db=nan", ("sqnr_db", "OUTPUT:METRIC=VALUE")),
        ("check TINY --against TINY --budget sqnr_db=high", ("high", "OUTPUT:METRIC=VALUE")),
        ("export zoo:vqa-coatention", ("'vqa-coatention'", "zoo:vqa-coattention")),
        ("export zoo:", ("zoo", "vqa-coattention")),
        ("export tiny_fusion", ("'tiny_fusion'", "package.module:factory")),
        ("export ../tiny_fusion:factory", ("package.module:factory",)),
        ("export tiny_fusion:factory --opset 9", ("--opset", "17")),
        ("run gone.toml", ("gone.toml", "engines/recipes")),
        ("run .", ("can't read",)),
    ],
)
def test_usage(cli: Cli, tiny: Path, line: str, words: tuple[str, ...]) -> None:
    said = cli(*line.replace("TINY", str(tiny)).split(), *(["-o", "made"] if line.startswith("build T") else []))
    assert_refused(said, 2, *words)


def test_an_error_is_a_document_too(cli: Cli) -> None:
    said = cli("build", "gone.onnx", "--json")
    document = json.loads(said.out)
    assert document["schema"] == "mmtrt.error/1"
    assert "gone.onnx" in document["error"]
    assert document["fix"]
    assert document["exit_code"] == said.code == 3
    assert "gone.onnx" in said.err
    document = json.loads(cli("buidl", "--json").out)
    assert document["exit_code"] == 2
    assert "'build'" in document["error"]


RECIPE = '[model]\nsource = "tiny_fusion:factory"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RECIPE + "[calibration]\ncuont = 3\n", ("calibration.cuont", "'count'")),
        (RECIPE + "[precison]\n", ("'precison'", "'precision'")),
        (RECIPE + "[parity.budget]\nint9 = {}\n", ("parity.budget",)),
        (RECIPE + '[parity]\nmetrics = {answer = "acuracy"}\n', ("acuracy", "accuracy")),
        (RECIPE + "[calibration]\ncount = 0\n", ("calibration.count", "0")),
        (RECIPE + '[precision]\nbuild = ["int4"]\n', ("precision.build", "int8")),
        (RECIPE + "[bench]\nduration_s = nan\n", ("bench.duration_s",)),
        (RECIPE + "ranges = {text = [8, 5, 2]}\n", ("ranges", "text", "[min, opt, max]")),
        ("[model]\n", ("model.source", "engines/recipes")),
        ("[model\n", ("TOML", "line 1")),
        ("", ("'model'", "missing")),
    ],
)
def test_recipe(cli: Cli, text: str, words: tuple[str, ...]) -> None:
    Path("mine.toml").write_text(text)
    assert_refused(cli("run", "mine.toml", "-o", "made"), 2, "mine.toml", *words)


def test_recipe_whose_values_do_not_fit_the_model(cli: Cli) -> None:
    Path("mine.toml").write_text(RECIPE.replace("factory", "factroy"))
    assert_refused(cli("run", "mine.toml", "-o", "made"), 3, "'factroy'", "'factory'")
