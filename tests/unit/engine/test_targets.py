from __future__ import annotations

from pathlib import Path

import pytest

from mmtrt.engine.options import BuildOptions
from mmtrt.engine.targets import load_target, target_names
from mmtrt.errors import UsageError


@pytest.mark.parametrize("name", ["any-rtx", "orin", "server"])
def test_each_committed_target_loads_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in target_names()
    target = load_target(name)
    options = target.options(timing_cache=Path("a.cache"))
    assert target.name == options.target == name
    assert options.flavor == target.flavor
    assert options.timing_cache == Path("a.cache")


def test_targets_of_the_current_directory_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "engines" / "targets"
    folder.mkdir(parents=True)
    (folder / "orin.toml").write_text('name = "mine"\ndescription = "d"\nworkspace_mib = 64\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_target("orin").workspace_mib == 64
    assert load_target(str(folder / "orin.toml")).options() == BuildOptions(workspace_mib=64, target="mine")


@pytest.mark.parametrize(("wrong", "words"), [("orinn", "'orin'"), ("a-very-other-name", "There are any-rtx")])
def test_an_unknown_target_names_the_nearest(wrong: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_target(wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "is no TOML"),
        ('name = "a"\n', "description: Field required"),
        ('name = "a"\ndescription = "d"\nworkspace_mb = 3\n', r"(?s)workspace_mb.*'workspace_mib'"),
        ('name = "a"\ndescription = "d"\nnonsense = 3\n', r"(?s)nonsense.*The keys are name"),
        ('name = "a"\ndescription = "d"\nflavor = "rtx"\n', r"(?s)flavor.*'rtx' now"),
        ('name = "a"\ndescription = "d"\noptimization_level = 9\n', "optimization_level"),
        (None, "can't read the target"),
    ],
)
def test_a_broken_target_says_where(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "t.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        load_target(str(path))


@pytest.mark.parametrize("wrong", [{"workspace_mib": 0}, {"optimization_level": 6}, {"optimization_level": -1}])
def test_options_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        BuildOptions(**wrong)  # type: ignore[arg-type]
