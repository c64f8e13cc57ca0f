"""Factories and modules that are not what a source must be: each is named, with how to mend it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from refusals import Cli, assert_refused

SOURCES = """
import functools, sys
import numpy as np, torch
from torch import nn

X = {"x": torch.randn(2, 4)}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
    def forward(self, x):
        return torch.relu(self.inner(x))

class Branch(Net):
    def forward(self, x):
        return x if x.sum() > 0 else -x

class Same(Net):
    def forward(self, x):
        return self.inner(x), x

class Paired(nn.Module):
    def forward(self, x):
        return x.reshape(2, 4) * 2

def net(): return Net().eval()
def half_trained():
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval()
    module[1].train()
    return module, {"input": X["x"]}

raises = lambda: torch.load("gone.pt")
leaves = lambda: sys.exit(0)
training = lambda: (Net(), X)
axes = lambda *a: (net(), X, *a)
axes_name = lambda: axes({"ids": {0: "batch"}})
axes_list = lambda: axes([0])
axes_text = lambda: axes({"x": {"0": "batch"}})
axes_far = lambda: axes({"x": {5: "batch"}})
axes_number = lambda: axes({"x": {0: 7}})
extra_list = lambda: axes(None, [1])
extra_key = lambda: axes(None, {"sample": 1})
ranges_number = lambda: axes(None, {"ranges": {"batch": 4}})
ranges_name = lambda: axes(None, {"ranges": {"bacth": [1, 2, 4]}})
ranges_fall = lambda: axes(None, {"ranges": {"batch": [4, 2, 1]}})
outputs_text = lambda: axes(None, {"outputs": "y"})
outputs_taken = lambda: axes(None, {"outputs": ["x"]})
outputs_many = lambda: axes(None, {"outputs": ["y", "z"]})
modalities = lambda: axes(None, {"modalities": {"text": ["ids"]}})
samples_list = lambda: axes(None, {"samples": [1]})
samples_none = lambda: axes(None, {"samples": lambda: None})
samples_nan = lambda: axes(None, {"samples": lambda: [{"x": np.full(4, np.nan, np.float32)}]})
nothing = lambda: None
no_inputs = lambda: (net(), {})
text_input = lambda: (net(), {"x": "text"})
scalar_input = lambda: (net(), {"x": torch.tensor(1.0)})
wrong_input = lambda: (net(), {"xx": X["x"]})
brain_float = lambda: (net(), {"x": X["x"].bfloat16()})
branch = lambda: (Branch().eval(), X)
same = lambda: (Same().eval(), X)
paired = lambda: (Paired().eval(), X, {})
number = 5

def prints():
    print("loading the checkpoint")
    return net(), X
partial = functools.partial(axes, None, {"ranges": {"batch": [1, 2, 4]}})
"""


@pytest.fixture
def sources(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> str:
    Path("faulty_sources.py").write_text(SOURCES)
    monkeypatch.delitem(sys.modules, "faulty_sources", raising=False)
    return "faulty_sources"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", ("FileNotFoundError", "gone.pt")),
        ("leaves", ("SystemExit",)),
        ("training", ("training mode", ".eval()")),
        ("half_trained", ("'1'", "training mode", ".eval()")),
        ("axes_name", ("'ids'", "x")),
        ("axes_list", ("dynamic_axes", "list", "{axis: size name}")),
        ("axes_text", ("'x'", "'0'")),
        ("axes_far", ("'x'", "axis 5", "(2, 4)")),
        ("axes_number", ("'x'", "7")),
        ("extra_list", ("fourth", "list")),
        ("extra_key", ("'sample'", "'samples'")),
        ("ranges_number", ("'batch'", "[min, opt, max]")),
        ("ranges_name", ("'bacth'", "'batch'")),
        ("ranges_fall", ("'batch'", "[min, opt, max]")),
        ("outputs_text", ("outputs", "list of names")),
        ("outputs_taken", ("outputs", "input")),
        ("outputs_many", ("2 outputs", "1")),
        ("modalities", ("'text'", "'ids'")),
        ("samples_list", ("samples", "function")),
        ("samples_none", ("samples", "NoneType")),
        ("samples_nan", ("sample 0", "'x'", "NaN")),
        ("nothing", ("NoneType", "(module, inputs)")),
        ("no_inputs", ("(module, inputs)",)),
        ("text_input", ("'x'", "str", "tensor")),
        ("scalar_input", ("'x'", "batch axis")),
        ("wrong_input", ("'xx'", "'x'")),
        ("brain_float", ("'x'", "bfloat16", "float32")),
        ("branch", ("faulty_sources.py", "control flow")),
        ("paired", ("golden sample 0", "one event alone", "batch axis")),
        ("number", ("callable", "(module, inputs)")),
        ("modalites", ("'modalites'", "'modalities'")),
    ],
)
def test_factory(cli: Cli, sources: str, name: str, words: tuple[str, ...]) -> None:
    said = cli("export", f"{sources}:{name}", "-o", "made")
    assert_refused(said, 3, *words)
    assert sources in said.err
    assert len(said.err.splitlines()) < 6, "the exporter's own talk stays out"


def test_module_that_can_not_be_imported(cli: Cli) -> None:
    Path("broken_source.py").write_text("def f(:\n")
    Path("parses_at_import.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--epochs'])\n")
    Path("needs_more.py").write_text("import a_package_that_is_not_there\n")
    assert_refused(cli("export", "gone.module:f", "-o", "made"), 3, "'gone'", "current directory")
    assert_refused(cli("export", "broken_source:f", "-o", "made"), 3, "SyntaxError", "broken_source.py")
    assert_refused(cli("export", "parses_at_import:f", "-o", "made"), 3, "parses_at_import", "SystemExit")
    assert_refused(cli("export", "needs_more:f", "-o", "made"), 3, "'a_package_that_is_not_there'")


def test_what_a_factory_prints_stays_out_of_the_document(cli: Cli, sources: str) -> None:
    said = cli("export", f"{sources}:prints", "-o", "made", "--json", "-q")
    assert said.code == 0, said.err
    assert said.out.startswith("{")
    assert "loading the checkpoint" in said.err


@pytest.mark.parametrize("name", ["partial", "same"])
def test_odd_sources_that_are_taken(cli: Cli, sources: str, name: str) -> None:
    said = cli("export", f"{sources}:{name}", "-o", "made")
    assert said.code == 0, said.err
    assert "batch 1..2..4" in said.out
