"""Signatures by OpenSSF model signing: a model of one file, `bundle.json`, signed and verified by a key.

https://github.com/sigstore/model-transparency; the envelope that is signed is DSSE's,
https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying

from mmtrt.artifacts import machine_errors
from mmtrt.bundle.canonical import MANIFEST, SIGNATURE

__all__ = ["is_signed", "signature"]

# By curve, as the library has them.
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


def signature(manifest: bytes, private_key: Path) -> bytes:
    """Return the signature's file for a manifest, the same bytes each time; ValueError where the key can't sign."""
    key = _loaded(private_key.read_bytes(), ec.EllipticCurvePrivateKey)
    with _model(manifest) as (model, out):
        config = signing.Config().set_hashing_config(_exactly())
        config.use_elliptic_key_signer(private_key=private_key).sign(model, out)
        found = json.loads(out.read_bytes())
    # The library orders the keys of the statement otherwise in each process, and draws a random number for each
    # signature: keys are sorted, and the number is that of RFC 6979, so that it is the same each time.
    envelope = found["dsseEnvelope"]
    payload, told = _sorted(base64.b64decode(envelope["payload"])), envelope["payloadType"].encode()
    envelope["payload"] = base64.b64encode(payload).decode()
    signed = b"DSSEv1 %d %s %d %s" % (len(told), told, len(payload), payload)
    try:
        drawn = key.sign(signed, ec.ECDSA(_HASHES[key.curve.name], deterministic_signing=True))
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    envelope["signatures"] = [{"sig": base64.b64encode(drawn).decode(), "keyid": ""}]
    made = _sorted(json.dumps(found)) + b"\n"
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if not is_signed(manifest, made, public):
        raise ValueError("what it signed can't be verified")
    return made


def is_signed(manifest: bytes, signed: bytes, public_key: bytes) -> bool:
    """Tell whether `signed` is a signature of exactly this manifest by this key; ValueError where the key is none."""
    _loaded(public_key, ec.EllipticCurvePublicKey)
    with _model(manifest) as (model, out):
        out.write_bytes(signed)
        key = out.with_name("key.pem")
        key.write_bytes(public_key)
        verifier = verifying.Config().set_hashing_config(_exactly()).use_elliptic_key_verifier(public_key=key)
        # It warns on stdout, which belongs to a command's JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                verifier.verify(model, out)
            # Of what an attacker wrote it raises anything: KeyError, RecursionError, a library's own.
            except Exception:  # noqa: BLE001  # whatever it is, the signature was not verified
                return False
    return True


def _sorted(document: str | bytes) -> bytes:
    """Return a JSON document in its one form."""
    return json.dumps(json.loads(document), sort_keys=True, separators=(",", ":")).encode()


class _Exactly(hashing.Config):
    """Hashes all of a folder, whatever a signature says should be left out."""

    def add_ignored_paths(self, *, model_path: Any, paths: Iterable[Any]) -> None:
        """Ignore nothing.

        A signer's signature over another model that leaves `bundle.json` out would else verify any manifest at all.
        """


def _exactly() -> _Exactly:
    config = _Exactly()
    config.set_ignored_paths(paths=[], ignore_git_paths=False)
    config.use_file_serialization(hashing_algorithm="sha256")
    return config


@contextlib.contextmanager
def _model(manifest: bytes) -> Iterator[tuple[Path, Path]]:
    """Give the folder of the one file, and a path for the signature beside it, where only this user reads."""
    with machine_errors("a temporary folder"), tempfile.TemporaryDirectory(prefix="mmtrt-sign-") as folder:
        # The model's name is signed too, so it is always this one.
        model = Path(folder, "bundle")
        model.mkdir()
        (model / MANIFEST).write_bytes(manifest)
        yield model, Path(folder, SIGNATURE)


def _loaded(pem: bytes, kind: type[Any]) -> Any:
    """Return the key of a PEM; ValueError where it is none of this kind, or of a curve that nothing here signs by."""
    private = kind is ec.EllipticCurvePrivateKey
    try:
        load: Any = serialization.load_pem_private_key if private else serialization.load_pem_public_key
        key: Any = load(pem, None) if private else load(pem)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error
    if not (isinstance(key, kind) and key.curve.name in _HASHES):
        raise ValueError(f"it is no key of the curves {', '.join(_HASHES)}")
    return key
