"""A pipeline as one thing that runs: a chain of subjects, or what a manifest describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from mmtrt.artifacts import key_of
from mmtrt.errors import InputError, UsageError
from mmtrt.parts.chain import Chain
from mmtrt.parts.manifest import read_manifest
from mmtrt.parts.wiring import Wiring, nearest
from mmtrt.pipeline.sides import Subject, open_subject

__all__ = ["chain_subject", "open_chain"]

Kind = Literal["onnx", "engine"]


def chain_subject(wiring: Wiring, what: str, precision: str, parts: Mapping[str, Subject]) -> Subject:
    """Make one subject of a chain of them."""
    keys = {name: subject.key for name, subject in parts.items()}
    return Subject(
        what=what,
        precision=precision,
        spec=wiring.spec,
        key=key_of({"parts": keys, "wiring": wiring.to_json()}),
        exact=lambda: Chain(wiring, {name: subject.exact() for name, subject in parts.items()}),
        fast=lambda: Chain(wiring, {name: subject.fast() for name, subject in parts.items()}),
    )


def open_chain(manifest: Path, chain: str, kind: Kind = "onnx") -> Subject:
    """Open a chain that `mmtrt run` made, by its manifest; UsageError where it has no such chain or file.

    MachineError where it is one of engines, and this machine can't run them.
    """
    found = read_manifest(manifest)
    if chain not in found.chains:
        raise UsageError(f"{manifest} has no chain {chain!r}", fix=nearest(chain, found.chains, "Its chains are"))
    parts: dict[str, Subject] = {}
    for part, precision in found.chains[chain].items():
        file = found.files.get(part, {}).get(precision, {}).get(kind)
        if file is None:
            raise InputError(f"{manifest} names no {kind} of {part!r} in {precision}", fix="`mmtrt run` makes it.")
        parts[part] = open_subject(str(manifest.parent / file))
    return chain_subject(found.wiring, f"{found.name} {chain} ({kind})", chain, parts)
