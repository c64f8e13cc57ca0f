from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmtrt.engine.options import BuildOptions
from mmtrt.engine.targets import Target, load_target, target_names
from mmtrt.errors import UsageError


@pytest.mark.parametrize("name", ["agx-orin", "agx-orin-dla", "any-rtx", "orin-nano", "orin-nx", "server", "thor"])
def test_each_committed_target_loads_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert name in target_names()
    assert len(target_names()) == 7
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


@pytest.mark.parametrize(("wrong", "words"), [("orin-nanno", "'orin-nano'"), ("zzz", "There are agx-orin")])
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
        ('name = "a"\ndescription = "d"\nboard = "xavier"\n', r"(?s)board.*'xavier' now"),
        ('name = "a"\ndescription = "d"\njetpack = ["six"]\n', "jetpack.0"),
        ('name = "a"\ndescription = "d"\ngpu_capability = "SM87"\n', "gpu_capability"),
        ('name = "a"\ndescription = "d"\ndla_core = 2\ndla_cores = 2\n', "dla_core is 2, and dla_cores says"),
        ('name = "a"\ndescription = "d"\ndla_core = 0\n', "there are 0"),
        ('name = "a"\ndescription = "d"\nplugins = [""]\n', "plugins.0"),
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


@pytest.mark.parametrize("name", ["agx-orin-dla", "any-rtx", "orin-nano", "thor"])
def test_a_target_comes_back_from_the_json_that_a_bundle_carries(name: str) -> None:
    target = load_target(name)
    assert Target.model_validate(json.loads(json.dumps(target.model_dump(mode="json")))) == target


def test_a_target_of_before_boards_and_a_builds_old_json_still_hold() -> None:
    old = {"name": "a", "description": "d", "flavor": "tensorrt", "workspace_mib": 64, "typing": "weak", "gpu": None}
    assert Target.model_validate(old).options() == BuildOptions(
        flavor="tensorrt", workspace_mib=64, typing="weak", target="a"
    )
    new = {"dla_core", "gpu_fallback"}
    json_before = {key: value for key, value in BuildOptions().to_json().items() if key not in new}
    assert BuildOptions(**json_before) == BuildOptions()


def test_what_only_the_machine_is_held_to_is_no_setting_of_a_build() -> None:
    options = load_target("agx-orin-dla").options()
    assert (options.dla_core, options.gpu_fallback, options.target) == (0, True, "agx-orin-dla")
    assert not hasattr(options, "power_mode")
