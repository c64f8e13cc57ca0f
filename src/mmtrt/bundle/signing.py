"""Signing a bundle's manifest and verifying who did, by OpenSSF model signing with keys, offline.

What is signed is `bundle.json` alone, as the one file of a model: it has the digest of every other file, and its
signature can be verified before anything of it is parsed. The libraries are an extra, `sign`.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtrt.bundle.opening import Trust
from mmtrt.bundle.reading import Sealed
from mmtrt.errors import InputError, MachineError, UsageError

__all__ = ["sign", "trust"]

_KEY_BYTES = 1 << 16
_PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*")
_PRIVATE = re.compile(rb"-----BEGIN (?:EC )?PRIVATE KEY-----")
_KINDS = "P-256, P-384 or P-521"


def sign(manifest: bytes, private_key: Path) -> bytes:
    """Return the bytes of `bundle.sig` over those of `bundle.json`, the same each time for the same key.

    The key is a PEM of an elliptic key (P-256, P-384, P-521) without a password. UsageError where it is none,
    InputError where it can't be read, MachineError without the extra.
    """
    key = _key(private_key)
    if b"ENCRYPTED" in key:
        raise UsageError(
            f"the key {private_key} has a password",
            fix=f"Sign with one without, in a place that only the signer reads: openssl ec -in {private_key} -out KEY.",
        )
    if not _PRIVATE.search(key):
        raise UsageError(f"{private_key} is no private key in PEM form", fix=_make("private"))
    try:
        signature: bytes = _model_signing("signing a bundle").signature(manifest, private_key)
    except ValueError as error:
        raise UsageError(f"the key {private_key} can't sign: {error}"[:300], fix=_make("private")) from error
    return signature


@dataclass(frozen=True, slots=True)
class _Key:
    """A public key as its file had it when it was read."""

    path: Path
    pem: bytes

    @property
    def label(self) -> str:
        """The file's name, and what tells the key whatever its file is called."""
        der = base64.b64decode(re.sub(rb"-----[A-Z ]+-----", b"", self.pem))
        return f"{self.path.name} (sha256 {hashlib.sha256(der).hexdigest()[:16]})"


def trust(public_keys: Sequence[Path], required: bool) -> Trust:  # noqa: FBT001  # what a target's file says
    """Return what verifies that a bundle was signed by one of these keys (PEM), and names the one.

    With keys, a signature by none of them is an InputError; without keys one that is there is not looked at. Where one
    is required, MachineError: here where there is no key to verify it by, later where there is none, or no library to
    verify it with. UsageError where a key is none, InputError where it can't be read.
    """
    if required and not public_keys:
        raise MachineError(
            "a signer is required here, and there is no key to know one by",
            fix="Give the signer's public key.",
        )
    keys = [_public(path) for path in public_keys]

    def signer(seal: Sealed) -> str:
        if not keys or (seal.signature is None and not required):
            return ""
        if seal.signature is None:
            raise MachineError(
                f"the bundle {seal.path} is not signed, and a signer is required here",
                fix="Have it signed where it is made.",
            )
        library = _model_signing("verifying a signature")
        for key in keys:
            if _signed(library, seal, seal.signature, key):
                return key.label
        names = " or ".join(key.label for key in keys)
        raise InputError(
            f"the bundle {seal.path} is refused: it was not signed by {names}, or altered since",
            fix="Get it again from who signs it, or give the public key of who did.",
        )

    return signer


def _signed(library: Any, seal: Sealed, signature: bytes, key: _Key) -> bool:
    try:
        return bool(library.is_signed(seal.manifest, signature, key.pem))
    except ValueError as error:
        raise UsageError(f"{key.path} is no key to verify by: {error}"[:300], fix=_make("public")) from error


def _public(path: Path) -> _Key:
    pem = _key(path)
    found = _PUBLIC.fullmatch(pem.strip())
    try:
        told = base64.b64decode(re.sub(rb"\s", b"", found[1]), validate=True) if found else b""
    except ValueError:
        told = b""
    if not told:
        raise UsageError(f"{path} is no public key in PEM form", fix=_make("public"))
    return _Key(path, pem)


def _key(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(_KEY_BYTES)
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"can't read the key {path}: {told}", fix="Check the path; docs/bundle.md says how to make one."
        ) from error
    return content


def _make(kind: str) -> str:
    how = {
        "private": "openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem",
        "public": "openssl ec -in KEY.pem -pubout -out KEY.pub",
    }
    return f"An elliptic key ({_KINDS}) is needed: {how[kind]}"


def _model_signing(what: str) -> Any:
    try:
        # Not imported above: the base install has no such libraries, and opens bundles.
        return importlib.import_module("mmtrt.bundle.signing_model")
    except ImportError as error:
        raise MachineError(f"{what} needs model-signing: {error}", fix="pip install 'mmtrt[sign]'") from error
