"""`mmtrt bundle`: a real bundle of a small model, the same bytes each time, and nothing where parity fails."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import Cli, assert_told

import mmtrt
from mmtrt.bundle.archive import MANIFEST
from mmtrt.bundle.manifest import Manifest
from mmtrt.bundle.opening import unpack, verify
from mmtrt.engine.flavours import installed
from mmtrt.onnx_files import model_digest
from mmtrt.samples import open_set
from mmtrt.tensors import ModelSpec

Mmtrt = Callable[..., "subprocess.CompletedProcess[str]"]
RTX = any(flavour.name == "tensorrt-rtx" for flavour in installed())


def written(recipe: Path, *changes: tuple[str, str]) -> Path:
    """The test bundle's recipe in the current directory, changed."""
    text = recipe.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    Path("tiny.toml").write_text(text, encoding="utf-8")
    return Path("tiny.toml")


@pytest.fixture
def recipe(tiny_bundle: Path) -> Path:
    return tiny_bundle.with_suffix(".toml")


@pytest.fixture
def manifest(tiny_bundle: Path) -> Manifest:
    return verify(tiny_bundle).manifest


def test_it_carries_what_a_device_needs(tiny_bundle: Path, tmp_path: Path, manifest: Manifest) -> None:
    unpack(tiny_bundle, tmp_path)
    assert (manifest.name, manifest.version, manifest.mmtrt) == ("tiny", "1.2.0", mmtrt.__version__)
    assert list(manifest.models) == ["fp32", "int8"]
    for model in manifest.models.values():
        assert model_digest(tmp_path / model.path) == model.digest
        assert model.measured["verdict"] == "pass"
        assert model.measured["outputs"]["answer"]["sqnr_db"] > 15
        assert model.measured["runs"].startswith("onnxruntime")
    assert manifest.models["int8"].budget == {"sqnr_db": 15.0}
    assert (manifest.models["int8"].calibration or {})["samples"] == 40
    assert manifest.recipe["bundle"]["version"] == "1.2.0"
    assert {name: target.precision for name, target in manifest.targets.items()} == {
        "any-rtx": "int8",
        "orin-nano": "int8",
    }
    assert manifest.targets["orin-nano"].settings["workspace_mib"] == 1024
    samples = list(open_set(str(tmp_path / manifest.golden)))
    assert len(samples) == 4
    assert {"ids", "output.answer", "output.match", "label.answer"} <= samples[0].keys()


def test_golden_samples_are_of_the_shapes_that_matter(tiny: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    def lengths(folder: Path) -> list[int]:
        return [len(sample["ids"]) for sample in open_set(str(folder))]

    unpack(tiny_bundle, tmp_path)
    ours, there = lengths(tmp_path / "golden"), lengths(tiny.with_name("tiny.golden"))
    assert (min(ours), max(ours)) == (min(there), max(there))
    usual = ModelSpec.from_json(verify(tiny_bundle).manifest.spec).ranges["text"][1]
    assert min(abs(length - usual) for length in ours) == min(abs(length - usual) for length in there)


@pytest.mark.skipif(not RTX, reason="TensorRT-RTX is not installed")
def test_an_engine_is_carried_with_what_it_needs(tiny_bundle: Path, tmp_path: Path, manifest: Manifest) -> None:
    unpack(tiny_bundle, tmp_path)
    (engine,) = manifest.engines
    assert (engine.target, engine.precision, engine.flavor) == ("any-rtx", "int8", "tensorrt-rtx")
    assert engine.onnx == manifest.models["int8"].digest
    assert (engine.gpu, engine.compute_capability) == (None, None)
    told = json.loads((tmp_path / engine.manifest).read_text(encoding="utf-8"))
    assert told["engine"]["sha256"] == manifest.files[engine.path].sha256
    assert told["flavor_version"] == engine.flavor_version
    assert told["ran"] is False


def test_no_byte_tells_of_the_machine(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = tiny_bundle.read_bytes()
    root = Path(__file__).parents[3]
    for place in (tmp_path_factory.getbasetemp(), root, Path.home(), Path(os.environ["MMTRT_CACHE_DIR"])):
        assert f"{place}/".encode() not in content


def test_golden_samples_are_of_the_parity_set_where_there_is_one(
    tiny: Path, recipe: Path, manifest: Manifest, cli: Cli
) -> None:
    """More than an export writes, with the outputs that PyTorch gives."""
    calib = tiny.with_name("tiny.calib")
    written(recipe, ("[parity]", f'[parity]\nset = "{calib}"'), ("golden = 4", "golden = 12"))
    assert cli("bundle", "tiny.toml", "-o", "tiny.mmtrt/", "-q").code == 0
    samples = list(open_set("tiny.mmtrt/golden"))
    assert len(samples) == 12
    there = {len(sample["ids"]) for sample in open_set(str(calib))}
    assert {min(there), max(there), 5} <= {len(sample["ids"]) for sample in samples}
    found = verify(Path("tiny.mmtrt")).manifest
    assert found.models["fp32"].digest == manifest.models["fp32"].digest
    assert found.recipe["parity"]["set"] == "tiny.calib"
    with mmtrt.Session(Path("tiny.mmtrt") / found.models["fp32"].path) as session:
        for sample in samples:
            outputs = session.run({name: sample[name][None] for name in ("image", "ids", "mask")})
            np.testing.assert_allclose(outputs["answer"][0], sample["output.answer"], atol=1e-5)


# ------------------------------------------------------------------------------------------------- the same bytes


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_another_process_elsewhere_makes_the_same_bytes(tiny_bundle: Path, mmtrt: Mmtrt, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder/tiny.toml").write_bytes(tiny_bundle.with_suffix(".toml").read_bytes())
    with umask(0o077):
        said = mmtrt(
            "bundle",
            "a folder/tiny.toml",
            "-o",
            "made/other.mmtrt",
            "--json",
            LC_ALL="de_DE.UTF-8",
            TZ="Asia/Kathmandu",
            PYTHONHASHSEED="7",
        )
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["schema"] == "mmtrt.bundle-result/1"
    assert found["cached"] is True
    assert (tmp_path / "made/other.mmtrt").read_bytes() == tiny_bundle.read_bytes()
    assert found["digest"] == verify(tiny_bundle).digest
    assert found["bytes"] == tiny_bundle.stat().st_size
    assert found["files"] == {name: row.bytes for name, row in verify(tiny_bundle).manifest.files.items()}
    assert found["parity"] == {"fp32": "pass", "int8": "pass"}
    assert found["targets"]["orin-nano"]["engine"] == "built on the board"
    assert "TensorRT" in found["targets"]["orin-nano"]["why"]
    assert found["targets"]["any-rtx"]["engine"] == ("carried" if RTX else "built on the board")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a folder", "made"]


def test_a_directory_is_the_same_bundle(tiny_bundle: Path, recipe: Path, cli: Cli) -> None:
    for path in ("new.mmtrt/", "there", "new.mmtrt/"):
        Path("there").mkdir(exist_ok=True)
        assert cli("bundle", recipe, "-o", path, "-q").code == 0
        opened = verify(Path(path))
        assert (opened.digest, Path(path).is_dir()) == (verify(tiny_bundle).digest, True)


def test_people_read_what_was_made(recipe: Path, cli: Cli) -> None:
    said = cli("bundle", recipe, "-o", "tiny.mmtrt")
    assert said.code == 0, said.err
    for word in ("tiny.mmtrt", "tiny 1.2.0", "fp32 pass, int8 pass", "4 samples", "orin-nano", "built on the board"):
        assert word in said.out
    assert cli("bundle", recipe, "-o", "tiny.mmtrt", "-q").err == ""


# ------------------------------------------------------------------------------------------------------- refusals


def test_parity_out_of_budget_makes_no_bundle(recipe: Path, cli: Cli) -> None:
    written(recipe, ("sqnr_db = 15", '"answer:sqnr_db" = 90'))
    said = cli("bundle", "tiny.toml", "-o", "made/tiny.mmtrt")
    assert_told(said, 1, "no bundle was made", ".int8.onnx is out of budget", "answer", "below 90")


def test_it_is_written_over_no_other_thing(recipe: Path, tiny_bundle: Path, cli: Cli) -> None:
    Path("notes.txt").write_text("mine", encoding="utf-8")
    for folder in ("mine", "unpacked"):
        Path(folder).mkdir()
    unpack(tiny_bundle, Path("unpacked"))
    for folder in ("mine", "unpacked"):
        Path(folder, "notes.txt").write_text("mine", encoding="utf-8")
    for out in ("notes.txt", "notes.txt/", "mine", "mine/", "unpacked", ".", "/", ""):
        said = cli("bundle", recipe, "-o", out)
        assert_told(said, 2)
    # Told before the minutes that the stages take, too.
    said = cli("bundle", recipe, "-o", "notes.txt/tiny.mmtrt")
    assert_told(said, 4, "notes.txt")
    assert "export" not in said.err
    for notes in ("notes.txt", "mine/notes.txt", "unpacked/notes.txt"):
        assert Path(notes).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([('targets = ["any-rtx", "orin-nano"]', "")], ["names no target", "any-rtx"]),
        ([('"orin-nano"', '"orin-nanno"')], ["orin-nanno", "orin-nano"]),
        ([("tiny_fusion:factory", "parts_fusion:speaking")], ["several parts", "eye"]),
        ([("golden = 4", 'golden = 4\nprecision = "fp16"')], ["fp16 is not built"]),
        ([("golden = 4", 'golden = 4\nplugins = ["libodd.so"]')], ["any-rtx does not allow", "libodd.so"]),
        ([("[model]", f'name = "{"long" * 20}"\n[model]')], ["no name in a bundle"]),
        ([("golden = 4", "golden = 4\nprecisions.orin = 'fp32'")], ["orin", "orin-nano"]),
        ([("[model]", 'description = "a \\u001b[2Jmodel"\n[model]')], ["nobody could open it", "control character"]),
    ],
)
def test_a_recipe_that_can_t_be_bundled_is_refused(
    recipe: Path, cli: Cli, changes: list[tuple[str, str]], words: list[str]
) -> None:
    written(recipe, *changes)
    assert_told(cli("bundle", "tiny.toml", "-o", "made/tiny.mmtrt"), 2, *words)


# ------------------------------------------------------------------------------------- weights apart, what it speaks

ODD = """
import torch
from torch import nn


def factory():
    torch.manual_seed(0)
    rule = {"kind": "tensor", "input": "input", "dtype": "float32", "shape": [6]}
    extra = {
        "outputs": ["answer"],
        "labels": {"answer": ["no", "sí", "perhaps"]},
        "preprocessing": {"schema": "mmtrt.preprocessing/1", "raw": {"table": rule}},
    }
    module = nn.Sequential(nn.Linear(6, 512), nn.ReLU(), nn.Linear(512, 3)).eval()
    return module, {"input": torch.randn(4, 6)}, {"input": {0: "batch"}}, extra
"""
ODD_RECIPE = """
model.source = "odd:factory"
precision.build = ["fp32"]
parity.stress = []
bundle = {targets = ["mine.toml"], engines = false, plugins = ["libodd.so"]}
"""


def test_weights_in_a_file_of_their_own_preprocessing_and_labels(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtrt.onnx_files.EMBED_LIMIT", 1000)
    Path("odd.py").write_text(ODD, encoding="utf-8")
    Path("odd.toml").write_text(ODD_RECIPE, encoding="utf-8")
    Path("mine.toml").write_text('name = "mine"\ndescription = "d"\nplugins = ["libodd.so"]', encoding="utf-8")
    said = cli("bundle", "odd.toml", "-o", "odd.mmtrt/", "--no-cache", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["targets"]["mine"]["why"] == "the recipe says engines = false"
    manifest = verify(Path("odd.mmtrt")).manifest
    model = manifest.models["fp32"]
    (data,) = model.data
    assert manifest.files[data].bytes > 10_000
    assert model_digest(Path("odd.mmtrt") / model.path) == model.digest
    assert manifest.engines == []
    assert manifest.plugins == ["libodd.so"]
    labels = Path("odd.mmtrt") / manifest.labels["answer"]
    assert json.loads(labels.read_text(encoding="utf-8")) == ["no", "sí", "perhaps"]
    assert manifest.preprocessing is not None
    session = mmtrt.Session("odd.mmtrt", runs="onnx")
    found = session.run(session.feeds(table=np.ones(6, dtype=np.float32)))
    assert found["answer"].shape == (1, 3)


# -------------------------------------------------------------------------------------------------------- signing


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key."""
    pytest.importorskip("model_signing", reason="the extra sign is not installed")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "release.pem", tmp_path / "release.pub.pem"
    plain: Any = form.NoEncryption()
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def test_a_signature_is_verified_by_its_public_key(
    recipe: Path, keys: tuple[Path, Path], cli: Cli, manifest: Manifest
) -> None:
    from mmtrt.bundle.signing import trust

    said = cli("bundle", recipe, "-o", "signed.mmtrt", "--sign", keys[0], "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["signed_by"] == "release.pem"
    opened = verify(Path("signed.mmtrt"), trust([keys[1]], required=True))
    assert "release.pub.pem" in opened.signed_by
    assert opened.manifest == manifest
    assert "signature" in cli("inspect", "signed.mmtrt").out


def test_a_deploy_that_is_given_a_key_holds_the_bundle_to_it(
    tiny_bundle: Path, keys: tuple[Path, Path], cli: Cli
) -> None:
    """Without a signature anybody could have sealed the bundle again."""
    said = cli("deploy", tiny_bundle, "--to", "there", "--build-only", "--public-key", keys[1])
    assert_told(said, 4, "sign")
    assert not list(Path("there").rglob("*.engine"))


def test_a_key_that_can_t_sign_is_told_before_any_work(recipe: Path, keys: tuple[Path, Path], cli: Cli) -> None:
    for key, code in ((keys[1], 2), (Path("gone.pem"), 3)):
        said = cli("bundle", recipe, "-o", "made/signed.mmtrt", "--sign", key)
        assert_told(said, code, key.name)
        assert "export" not in said.err


# ------------------------------------------------------------------------------------------------------ inspecting


@pytest.mark.parametrize("form", ["file", "directory"])
def test_inspect_tells_of_a_bundle_that_is_whole(tiny_bundle: Path, cli: Cli, form: str) -> None:
    path = tiny_bundle
    if form == "directory":
        path = Path("unpacked")
        path.mkdir()
        unpack(tiny_bundle, path)
    found = json.loads(cli("inspect", path, "--json").out)
    assert (found["schema"], found["kind"], found["form"]) == ("mmtrt.inspect/1", "bundle", form)
    assert (found["integrity"], found["signed"]) == ("matches", False)
    assert found["digest"] == verify(path).digest
    assert Manifest.model_validate(found["manifest"]) == verify(path).manifest
    said = cli("inspect", path)
    assert said.code == 0, said.err
    for word in ("tiny 1.2.0", "any-rtx", "orin-nano", "parity pass over 8 samples", "40 samples", "4 samples"):
        assert word in said.out


def test_inspect_tells_nothing_of_one_that_was_altered(tiny_bundle: Path, cli: Cli) -> None:
    content = bytearray(tiny_bundle.read_bytes())
    content[-5000] ^= 1
    Path("altered.mmtrt").write_bytes(content)
    said = cli("inspect", "altered.mmtrt")
    assert_told(said, 3, "altered.mmtrt", "refused")
    assert said.out == ""
    Path("folder").mkdir()
    unpack(tiny_bundle, Path("folder"))
    (Path("folder") / MANIFEST).write_bytes(b"{}")
    assert_told(cli("inspect", "folder"), 3, "refused")
    Path("none.mmtrt").write_bytes(b"no bundle")
    assert_told(cli("inspect", "none.mmtrt"), 3, "none.mmtrt")
