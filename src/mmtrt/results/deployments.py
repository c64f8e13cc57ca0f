"""What a deployment did: verified, looked at, built, run, measured, switched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mmtrt.results.plain import plain

__all__ = ["DeployResult", "Mismatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One thing that the bundle or its target asks of the machine and that is otherwise: what, and its mend.

    `stops` tells whether a deploy ends there, with exit code 4; others are warnings.
    """

    what: str
    wanted: str
    found: str
    fix: str
    stops: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployResult:
    """One deploy, or one rollback. A part that was not reached is None; `switched` says whether `current` is new.

    `rejected` is an engine that ran, and was out of its budget or too slow. `engine` is `reused` from the bundle,
    `cached` from an earlier deploy, or `built`; `manifest_sha256` is the digest of its manifest's file. `parity` is
    that of `CheckResult.to_json`, `latency` a row of `BenchRow.to_json`, `ran` what really ran and where, empty where
    the engine was built, not run.
    """

    state: Literal["deployed", "built, not run", "rolled back", "already deployed", "rejected"]
    directory: str
    name: str
    version: str
    digest: str
    version_directory: str
    target: str = ""
    precision: str = ""
    signed_by: str = ""
    engine: Literal["reused", "cached", "built", ""] = ""
    engine_sha256: str = ""
    manifest_sha256: str = ""
    flavor: str = ""
    flavor_version: str = ""
    build_s: float | None = None
    ran: str = ""
    parity: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    mismatches: tuple[Mismatch, ...] = ()
    switched: bool = False
    previous: str = ""
    machine: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.deploy/1`, which is what `deployed.json` holds too."""
        return {"schema": "mmtrt.deploy/1", **plain(asdict(self))}
