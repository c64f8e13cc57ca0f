"""A checkpoint beside a factory: what is read, what is told, what is refused, and that nothing is half-loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import two_towers
from refusals import Cli, assert_refused
from safetensors.torch import save_file
from torch import nn

from mmtrt.errors import ModelError, UsageError
from mmtrt.export.sources import load_source

SOURCE = "two_towers:factory"
Weights = dict[str, torch.Tensor]


def trained() -> Weights:
    """Weights that no factory makes: each is its key's own constant."""
    state = two_towers.TwoTowers().state_dict()
    made = {key: torch.full_like(tensor, (1 + index) / 100) for index, (key, tensor) in enumerate(state.items())}
    return made | {"out.weight": made["words.weight"].clone()}


def holds(module: nn.Module, weights: Weights) -> bool:
    own = module.state_dict()
    return all(torch.equal(own[key], tensor) for key, tensor in weights.items())


WRAPPED: dict[str, tuple[Callable[[Weights], object], str]] = {
    "plain.pt": (lambda w: w, ""),
    "under.pth": (lambda w: {"epoch": 3, "state_dict": w, "optimizer": {"lr": 0.1}}, "'state_dict'"),
    "parallel.pt": (lambda w: {f"module.{k}": t for k, t in w.items()}, "'module.'"),
    "both.pt": (lambda w: {"model": {f"module._orig_mod.{k}": t for k, t in w.items()}, "step": 1}, "'_orig_mod.'"),
    "half.pt": (lambda w: {k: t.half() if t.is_floating_point() else t for k, t in w.items()}, "float16 to float32"),
    "odd_name.ckpt": (lambda w: {"ema": w, "args": [1, 2]}, "'ema'"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_is_found_however_it_was_saved(tmp_path: Path, name: str) -> None:
    wrap, told = WRAPPED[name]
    weights = trained()
    torch.save(wrap(weights), tmp_path / name)
    source = load_source(SOURCE, tmp_path / name)
    close = {k: t.half().float() if name == "half.pt" and t.is_floating_point() else t for k, t in weights.items()}
    assert holds(source.module, close)
    assert told in " ".join(source.notes)


def test_safetensors_and_the_format_before_zip(tmp_path: Path) -> None:
    weights = trained()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "old.pt"):
        source = load_source(SOURCE, tmp_path / name)
        assert holds(source.module, weights)
        assert not source.notes


def test_what_only_training_reads_and_what_is_tied_may_be_missing(tmp_path: Path) -> None:
    weights = trained()
    for key in ("image.1.num_batches_tracked", "out.weight"):
        del weights[key]
    save_file(weights, tmp_path / "w.safetensors")
    module = load_source(SOURCE, tmp_path / "w.safetensors").module
    assert torch.equal(module.get_parameter("out.weight"), weights["words.weight"])


def test_keys_that_do_not_match_are_listed_with_names_that_come_near(tmp_path: Path) -> None:
    weights = trained()
    weights["fuse.wieght"] = weights.pop("fuse.weight")
    weights["fuse.bias"] = torch.zeros(7)
    weights["image.1.num_batches_tracked"] = torch.tensor(0.5)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as refused:
        load_source(SOURCE, tmp_path / "w.safetensors")
    text = refused.value.message
    assert "nothing was loaded" in text
    assert "1 missing:\n    fuse.weight (near: fuse.wieght" in text
    assert "1 unexpected:\n    fuse.wieght (near: fuse.weight)" in text
    assert "fuse.bias: (7,) in the file, (8,) in the module" in text
    assert "image.1.num_batches_tracked: torch.float32 in the file, torch.int64 in the module" in text


def test_a_refused_checkpoint_leaves_the_module_as_it_was(tmp_path: Path) -> None:
    from mmtrt.export.checkpoint import load_weights

    module = two_towers.TwoTowers()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    weights = trained()
    del weights["fuse.bias"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"fuse\.bias"):
        load_weights(module, tmp_path / "w.safetensors")
    assert holds(module, before)


def test_many_keys_are_counted(tmp_path: Path) -> None:
    save_file({f"layer.{i}.weight": torch.zeros(1) for i in range(50)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="50 unexpected") as refused:
        load_source(SOURCE, tmp_path / "w.safetensors")
    assert "and 42 more" in refused.value.message


def test_the_digest_follows_the_checkpoint(tmp_path: Path) -> None:
    weights = trained()
    save_file(weights, tmp_path / "a.safetensors")
    save_file(weights | {"fuse.bias": weights["fuse.bias"] + 1}, tmp_path / "b.safetensors")
    torch.save(weights, tmp_path / "a.pt")
    digests = {load_source(SOURCE, tmp_path / name).digest for name in ("a.safetensors", "b.safetensors", "a.pt")}
    assert len(digests | {load_source(SOURCE).digest}) == 4


def test_export_takes_a_checkpoint_and_tells_of_it(cli: Cli, tmp_path: Path) -> None:
    save_file({f"module.{k}": t for k, t in trained().items()}, tmp_path / "w.safetensors")
    said = cli("export", SOURCE, "--checkpoint", "w.safetensors", "-o", "made", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["checkpoint"] == "w.safetensors"
    assert any(f["kind"] == "checkpoint" and "'module.'" in f["what"] for f in found["findings"])
    about = json.loads(Path("made/two_towers.golden/set.json").read_text())
    assert about["checkpoint"] == "w.safetensors"
    golden = np.load("made/two_towers.golden/00000.npz")
    module = load_source(SOURCE, tmp_path / "w.safetensors").module
    with torch.inference_mode():
        joint = module(*(torch.from_numpy(golden[name][None]) for name in ("image", "ids", "mask")))[0]
    assert np.allclose(golden["output.joint"], joint[0].numpy(), atol=1e-5)


def test_a_check_against_the_source_takes_its_checkpoint(cli: Cli) -> None:
    save_file(trained(), "w.safetensors")
    assert cli("export", SOURCE, "--checkpoint", "w.safetensors", "-o", "made", "-q").code == 0
    same = cli("check", "made/two_towers.onnx", "--against", SOURCE, "--checkpoint", "w.safetensors", "--json")
    assert same.code == 0, same.err
    assert cli("check", "made/two_towers.onnx", "--against", SOURCE).code == 1
    files = ("made/two_towers.onnx", "--against", "made/two_towers.onnx")
    idle = cli("check", *files, "--checkpoint", "w.safetensors")
    assert idle.code == 2
    assert "both sides are files" in idle.err


def test_a_file_that_is_no_checkpoint_is_refused_with_its_mend(cli: Cli, tmp_path: Path) -> None:
    torch.save(two_towers.TwoTowers(), "whole.pt")
    torch.save({"epoch": 3}, "empty.pt")
    torch.save(trained(), "good.pt")
    Path("cut.pt").write_bytes(Path("good.pt").read_bytes()[:2000])
    Path("cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    Path("text.pth").write_text("not weights")
    Path("w.onnx").write_bytes(b"onnx")
    Path("folder").mkdir()
    Path("folder/model.safetensors").touch()
    torch.jit.script(nn.Linear(2, 2)).save("script.pt")
    for name, words in {
        "whole.pt": ("TwoTowers", "more than weights", "state_dict()"),
        "script.pt": ("TorchScript", "state_dict()"),
        "empty.pt": ("no state dict", "'epoch'"),
        "cut.pt": ("cut off", "again"),
        "cut.safetensors": ("cut off", "again"),
        "text.pth": ("can't be read",),
        "w.onnx": ("'.onnx'", ".safetensors"),
        "folder": ("is a folder", "folder/model.safetensors"),
        "god.pt": ("no checkpoint god.pt", "good.pt"),
    }.items():
        assert_refused(cli("export", SOURCE, "--checkpoint", name, "-o", "made"), 3, name, *words)


def test_a_recipe_names_its_checkpoint(tmp_path: Path) -> None:
    from mmtrt.recipe import load_recipe

    (tmp_path / "r.toml").write_text(f'[model]\nsource = "{SOURCE}"\ncheckpoint = "w.safetensors"\n')
    assert load_recipe(tmp_path / "r.toml").model.checkpoint == Path("w.safetensors")
    (tmp_path / "bad.toml").write_text(f'[model]\nsource = "{SOURCE}"\nchekpoint = "w.safetensors"\n')
    with pytest.raises(UsageError, match="chekpoint") as refused:
        load_recipe(tmp_path / "bad.toml")
    assert "'checkpoint'" in str(refused.value.fix)
