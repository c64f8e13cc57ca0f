"""What is in an engine file, without loading it: deserialising a plan runs native code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmtrt.engine.manifest import Manifest, layer_rows, read
from mmtrt.errors import InputError
from mmtrt.runtimes.tensorrt_api import FlavourName, check_digest, manifest_path, plan_flavour

__all__ = ["Integrity", "PlanInfo", "inspect_engine"]

Integrity = Literal["matches", "altered", "no manifest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInfo:
    """A plan file: `flavor` by its header, None where that tells nothing; what lies beside it.

    `layers` are rows of `mmtrt.engine.table`, None where the builder told none.
    """

    engine: Path
    engine_bytes: int
    flavor: FlavourName | None
    manifest: Manifest | None
    integrity: Integrity
    layers: list[dict[str, Any]] | None = None


def inspect_engine(engine: Path) -> PlanInfo:
    """Look at an engine file and its manifest; InputError where either can't be read."""
    flavor = plan_flavour(engine)
    manifest = read(engine) if manifest_path(engine).is_file() else None
    return PlanInfo(
        engine=engine,
        engine_bytes=engine.stat().st_size,
        flavor=flavor,
        manifest=manifest,
        integrity=_integrity(engine, manifest),
        layers=layer_rows(engine),
    )


def _integrity(engine: Path, manifest: Manifest | None) -> Integrity:
    if manifest is None:
        return "no manifest"
    try:
        check_digest(engine, manifest.engine_digest)
    except InputError:
        return "altered"
    return "matches"
