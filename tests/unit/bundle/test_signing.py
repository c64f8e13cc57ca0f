"""Who signed a bundle is known before its manifest is parsed; without a signer nothing is taken where one is asked."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fuzz_base import contents, manifest_of, packed

from mmtrt.bundle import opening, signing
from mmtrt.bundle.archive import Sealed, sealed
from mmtrt.bundle.opening import unpack, verify
from mmtrt.bundle.signing import sign, trust
from mmtrt.errors import InputError, MachineError, UsageError

PUBLIC = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaMPgXX2oVvDVo+mDvkcrpP4wvsVL
cLXeXEtdwXjyhPMUx1KvlKGcn8BKl6iNXsPXGC4JV3P8FhTqhGd6e+FSDQ==
-----END PUBLIC KEY-----
"""


@pytest.fixture
def library() -> None:
    pytest.importorskip("model_signing.signing")


def key_pair(folder: Path, name: str, curve: str = "SECP256R1", password: bytes | None = None) -> tuple[Path, Path]:
    """A private and a public key in files."""
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    forms = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = ec.generate_private_key(getattr(ec, curve)())
    secret = forms.BestAvailableEncryption(password) if password else forms.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, secret))
    public.write_bytes(key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def signed_bundle(tmp_path: Path, private: Path, *, tar: bool = True) -> Path:
    files = contents()
    manifest = manifest_of(files)
    return packed(tmp_path / "vqa.mmtrt", files, manifest, sign(manifest.to_bytes(), private), tar=tar)


def seal_with(manifest: bytes, signature: bytes | None) -> Sealed:
    return Sealed(path=Path("vqa.mmtrt"), digest="", manifest=manifest, signature=signature, size=0)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("curve", ["SECP256R1", "SECP384R1", "SECP521R1"])
def test_a_signed_bundle_names_who_signed_it(tmp_path: Path, curve: str) -> None:
    private, public = key_pair(tmp_path, "release", curve)
    _, other = key_pair(tmp_path, "other")
    path = signed_bundle(tmp_path, private)

    opened = verify(path, trust([other, public], required=True))
    assert opened.signed_by.startswith("release.pub (sha256 ")
    assert verify(path, trust([public], required=False)).signed_by == opened.signed_by
    (tmp_path / "out").mkdir()
    assert unpack(path, tmp_path / "out", trust([public], required=True)).signed_by == opened.signed_by


@pytest.mark.usefixtures("library")
def test_two_signatures_of_one_key_are_the_same_bytes(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, "release")
    assert sign(b"{}", private) == sign(b"{}", private)
    assert sign(b"{}", private) != sign(b"{ }", private)


@pytest.mark.usefixtures("library")
def test_what_is_signed_is_in_one_order_whatever_order_a_process_has(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    made = sign(b"{}", private)
    statement = base64.b64decode(json.loads(made)["dsseEnvelope"]["payload"])
    for document in (made.removesuffix(b"\n"), statement):
        assert document == json.dumps(json.loads(document), sort_keys=True, separators=(",", ":")).encode()
    assert trust([public], required=True)(seal_with(b"{}", made)).startswith("release.pub")


@pytest.mark.usefixtures("library")
def test_a_signature_that_nobody_asks_for_is_told_apart_from_one_verified(tmp_path: Path) -> None:
    private, _ = key_pair(tmp_path, "release")
    path = signed_bundle(tmp_path, private)
    for asked in (None, trust([], required=False)):
        opened = verify(path, asked)
        assert (opened.signed, opened.signed_by) == (True, "")


@pytest.mark.usefixtures("library")
def test_the_library_s_own_tool_verifies_an_unpacked_bundle(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    path = signed_bundle(tmp_path, private, tar=False)
    command = [
        sys.executable,
        "-m",
        "model_signing",
        "verify",
        "key",
        str(path),
        "--signature",
        str(path / "bundle.sig"),
    ]
    command += ["--public_key", str(public), "--ignore_unsigned_files"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path / "bundle.json").write_bytes((path / "bundle.json").read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@pytest.mark.usefixtures("library")
def test_a_signature_of_the_library_s_own_tool_is_taken(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    manifest = manifest_of(contents()).to_bytes()
    (tmp_path / "any").mkdir()
    (tmp_path / "any" / "bundle.json").write_bytes(manifest)
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(tmp_path / "any")]
    command += ["--signature", str(tmp_path / "bundle.sig"), "--private_key", str(private)]
    subprocess.run(command, capture_output=True, check=True)
    seal = seal_with(manifest, (tmp_path / "bundle.sig").read_bytes())
    assert trust([public], required=True)(seal).startswith("release.pub")


@pytest.mark.usefixtures("library")
def test_another_key_s_signature_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, _ = key_pair(tmp_path, "attacker")
    _, public = key_pair(tmp_path, "release")
    path = signed_bundle(tmp_path, private)
    monkeypatch.setattr(opening, "parse_manifest", lambda *_: pytest.fail("parsed before it was verified"))
    for required in (True, False):
        with pytest.raises(InputError, match=r"not signed by release\.pub .*, or altered since"):
            verify(path, trust([public], required=required))


@pytest.mark.usefixtures("library")
def test_a_manifest_made_anew_is_refused_by_its_signature_alone(tmp_path: Path) -> None:
    """Whoever computes all digests anew has everything right but the signature."""
    private, public = key_pair(tmp_path, "release")
    seal = sealed(signed_bundle(tmp_path, private))
    files = contents() | {"models/int8.onnx": b"evil"}
    path = packed(tmp_path / "evil.mmtrt", files, manifest_of(files), seal.signature)
    assert verify(path).manifest.files["models/int8.onnx"].bytes == 4
    with pytest.raises(InputError, match="altered since"):
        verify(path, trust([public], required=True))


@pytest.mark.usefixtures("library")
def test_a_signature_over_something_else_that_leaves_the_manifest_out_is_refused(tmp_path: Path) -> None:
    """The key has signed another model, without files but those it ignores; the library alone takes it for any."""
    private, public = key_pair(tmp_path, "release")
    model = tmp_path / "model"
    model.mkdir()
    (model / "bundle.json").write_bytes(b"anything")
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(model), "--ignore-paths"]
    command += [str(model / "bundle.json"), "--signature", str(tmp_path / "sig"), "--private_key", str(private)]
    subprocess.run(command, capture_output=True, check=True)
    told = json.loads(base64.b64decode(json.loads((tmp_path / "sig").read_bytes())["dsseEnvelope"]["payload"]))
    assert "bundle.json" in told["predicate"]["serialization"]["ignore_paths"]
    with pytest.raises(InputError, match="altered since"):
        trust([public], required=True)(seal_with(b'{"evil": 1}', (tmp_path / "sig").read_bytes()))


def replaced(signature: bytes, *at: Any, value: Any) -> bytes:
    told = json.loads(signature)
    inner = told
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return json.dumps(told).encode()


@pytest.mark.usefixtures("library")
def test_anything_that_is_no_signature_is_refused_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    private, public = key_pair(tmp_path, "release")
    manifest = b"{}"
    good = sign(manifest, private)
    empty = base64.b64encode(b"{}").decode()
    odd = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        good[:-40],
        replaced(good, "mediaType", value="text/plain"),
        replaced(good, "verificationMaterial", value={}),
        replaced(good, "verificationMaterial", "publicKey", value={}),
        replaced(good, "verificationMaterial", "publicKey", "hint", value=""),
        replaced(good, "dsseEnvelope", "signatures", value=[]),
        replaced(good, "dsseEnvelope", "signatures", 0, "sig", value=""),
        replaced(good, "dsseEnvelope", "payload", value=empty),
        replaced(good, "dsseEnvelope", "payloadType", value="x"),
    ]
    signer = trust([public], required=True)
    assert signer(seal_with(manifest, good))
    for signature in odd:
        try:
            # Where the key's name is left out the library warns, and verifies all the same.
            assert signer(seal_with(manifest, signature))
            assert b'"hint": ""' in signature or b'"publicKey": {}' in signature
        except InputError as error:
            assert "altered since" in error.message  # noqa: PT017  # some are signatures
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("library")
def test_every_byte_of_a_signature_counts(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    good = sign(b"{}", private)
    signer = trust([public], required=True)
    envelope = json.loads(good)["dsseEnvelope"]
    begin, end = (good.index(envelope["payload"].encode()), good.index(envelope["payload"].encode()) + 400)
    for at in range(begin, end, 7):
        changed = bytearray(good)
        changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
        with pytest.raises(InputError):
            signer(seal_with(b"{}", bytes(changed)))


# ------------------------------------------------------------------------------------------------------ who is missing


def test_no_signature_where_one_is_required_is_a_missing_signer(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "release.pub").write_bytes(PUBLIC)
    with pytest.raises(MachineError, match="is not signed, and a signer is required") as caught:
        verify(bundle, trust([tmp_path / "release.pub"], required=True))
    assert caught.value.exit_code == 4
    assert verify(bundle, trust([tmp_path / "release.pub"], required=False)).signed_by == ""


def test_a_required_signer_without_a_key_is_told_at_once() -> None:
    with pytest.raises(MachineError, match="no key to know one by"):
        trust([], required=True)


def test_without_the_extra_nothing_is_taken_for_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mmtrt.bundle.signing_model", raising=False)
    monkeypatch.setitem(sys.modules, "model_signing", None)
    (tmp_path / "release.pub").write_bytes(PUBLIC)
    (tmp_path / "key.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
    for required in (True, False):
        with pytest.raises(MachineError, match="needs model-signing") as caught:
            trust([tmp_path / "release.pub"], required=required)(seal_with(b"{}", b"{}"))
        assert caught.value.fix == "pip install 'mmtrt[sign]'"
    with pytest.raises(MachineError, match="needs model-signing"):
        sign(b"{}", tmp_path / "key.pem")


# -------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"a key",
        b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN PUBLIC KEY-----\nAAA\n-----END PUBLIC KEY-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        PUBLIC + PUBLIC,
        bytes(1 << 20),
    ],
)
def test_what_is_no_public_key_is_a_usage_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "release.pub"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"release\.pub"):
        trust([path], required=False)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("body", [b"AAAA", b"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="])
def test_a_key_that_no_signature_is_verified_by_is_a_usage_error(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "release.pub"
    path.write_bytes(b"-----BEGIN PUBLIC KEY-----\n" + body + b"\n-----END PUBLIC KEY-----\n")
    with pytest.raises(UsageError, match=r"release\.pub is no key to verify by"):
        trust([path], required=True)(seal_with(b"{}", b"{}"))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("kind", ["public", "password", "broken", "other curve"])
def test_what_can_t_sign_is_a_usage_error_that_names_it(tmp_path: Path, kind: str) -> None:
    private, public = key_pair(tmp_path, "release", *(["SECP256K1"] if kind == "other curve" else []))
    if kind == "password":
        private, _ = key_pair(tmp_path, "release", password=b"secret")
    path = public if kind == "public" else private
    if kind == "broken":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(UsageError, match=r"release\.(pem|pub)"):
        sign(b"{}", path)


def test_a_key_that_is_not_there_is_an_input_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"release\.pem"):
        sign(b"{}", tmp_path / "release.pem")
    with pytest.raises(InputError, match=r"release\.pub"):
        trust([tmp_path / "release.pub"], required=False)


@pytest.mark.usefixtures("library")
def test_a_key_s_file_is_read_once(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "release")
    attacker, evil = key_pair(tmp_path, "attacker")
    signer = trust([public], required=True)
    public.write_bytes(evil.read_bytes())
    assert signer(seal_with(b"{}", sign(b"{}", private)))
    with pytest.raises(InputError):
        signer(replace(seal_with(b"{}", None), signature=sign(b"{}", attacker)))


def test_a_library_that_is_half_there_is_one_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(name: str) -> None:
        raise ImportError(f"no OpenSSL for {name}", name="OpenSSL")

    (tmp_path / "release.pub").write_bytes(PUBLIC)
    monkeypatch.setattr(signing.importlib, "import_module", half)
    with pytest.raises(MachineError, match="no OpenSSL"):
        trust([tmp_path / "release.pub"], required=True)(seal_with(b"{}", b"{}"))
