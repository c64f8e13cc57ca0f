"""A version that stands already: what its document says, and whether its files are what they were."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from mmtrt.artifacts import file_digest, read_json
from mmtrt.bundle.opening import Opened, Trust, verify
from mmtrt.deploy.directory import Directory, Version
from mmtrt.deploy.preflight import Machine
from mmtrt.errors import InputError, MachineError
from mmtrt.results import DeployResult, Mismatch
from mmtrt.runtimes.tensorrt_api import LABELS, check_digest, manifest_path

__all__ = ["document_of", "fits", "of_document", "previous_name", "rolled_back", "verified"]

_AGAIN = "Deploy its bundle again."


def document_of(version: Version) -> Mapping[str, Any]:
    """Return what `deployed.json` of a version says; InputError where it is missing or none."""
    data = read_json(version.document)
    if not isinstance(data, dict) or data.get("schema") != "mmtrt.deploy/1":
        raise InputError(f"{version.document} is no mmtrt.deploy/1", fix=_AGAIN)
    return data


def previous_name(version: Version) -> str:
    """Return the name of the version that stood before, empty where there was none or nobody knows."""
    try:
        return str(document_of(version).get("previous", ""))
    except InputError:
        return ""


def verified(version: Version, trust: Trust | None) -> tuple[Opened, Mapping[str, Any]]:
    """Hold all files of a version against their digests; return its bundle and its document. InputError if altered."""
    if not version.path.is_dir():
        raise InputError(f"there is no version {version.path}", fix=_AGAIN)
    document = document_of(version)
    opened = verify(version.bundle, trust)
    if opened.digest != document.get("digest"):
        raise InputError(f"{version.path} was altered: its bundle is not the one that was deployed", fix=_AGAIN)
    check_digest(version.engine, str(document.get("engine_sha256")), found=file_digest(version.engine))
    # Without it no session opens the engine.
    if file_digest(manifest_path(version.engine)) != document.get("manifest_sha256"):
        raise InputError(f"{manifest_path(version.engine)} was altered since it was deployed", fix=_AGAIN)
    return opened, document


def fits(document: Mapping[str, Any], machine: Machine) -> str:
    """Return why a version's engine is not for this machine any more; empty where it is, as far as can be told."""
    flavor, version = document.get("flavor"), document.get("flavor_version")
    here = {flavour.name: flavour.version for flavour in machine.flavours}
    found = next((found for name, found in here.items() if name == flavor), None)
    label = next((label for name, label in LABELS.items() if name == flavor), flavor)
    if found != version:
        return f"its engine is for {label} {version}, and here is {found or 'none'}"
    told = document.get("machine")
    before, now = told.get("gpu") if isinstance(told, Mapping) else None, machine.gpu
    if now is None:
        return f"there is no GPU: {machine.gpu_trouble}"
    here_now = (now.name, now.compute_capability)
    if isinstance(before, Mapping) and (before.get("name"), before.get("compute_capability")) != here_now:
        return f"it was deployed on {before.get('name')}, and here is {now.name}"
    return ""


def rolled_back(directory: Directory, look: Callable[[], Machine], trust: Trust | None) -> DeployResult:
    """Switch back to the version before the current one; InputError where there is none, or it was altered."""
    current = directory.current()
    before = previous_name(current) if current is not None else ""
    version = directory.named(before) if before else None
    if current is None or version is None:
        raise InputError(
            f"{directory.root} has no version to go back to" + (f": {before} was removed" if before else ""),
            fix="Deploy the bundle of the version that you want.",
        )
    opened, document = verified(version, trust)
    machine = look()
    why = fits(document, machine)
    if why:
        raise MachineError(f"{version.path.name} can't run here any more: {why}", fix=_AGAIN)
    directory.switch(version)
    return replace(
        of_document(document),
        state="rolled back",
        directory=str(directory.root),
        signed_by=opened.signed_by,
        engine="",
        build_s=None,
        switched=True,
        previous=current.path.name,
        machine=machine.to_json(),
        notes=(),
    )


def of_document(document: Mapping[str, Any]) -> DeployResult:
    """Return the deploy that a version's document tells of; InputError where it is broken."""
    known = {field.name for field in fields(DeployResult)}
    kept = {name: value for name, value in document.items() if name in known}
    try:
        kept["mismatches"] = tuple(Mismatch(**row) for row in document.get("mismatches", ()))
        return DeployResult(**{**kept, "notes": tuple(document.get("notes", ()))})
    except TypeError as error:
        raise InputError(f"a deployed.json is broken: {error}", fix=_AGAIN) from error
