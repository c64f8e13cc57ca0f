"""What `mmtrt bundle` made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmtrt.results.plain import plain

__all__ = ["BundleResult", "TargetState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetState:
    """One target of a bundle: what it runs, and whether its engine is carried or built on the board; `why` not.

    `parity` is the verdict of an engine that ran where the bundle was made, empty where it was built, not run.
    """

    precision: str
    engine: Literal["carried", "built on the board"]
    flavor: str
    flavor_version: str = ""
    engine_bytes: int = 0
    parity: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleResult:
    """A bundle: its outer digest, its size in bytes and its files; `parity` is each precision's verdict.

    `golden` is how many samples it carries, `signed_by` the key's file, empty where nobody signed. `cached`: nothing
    had to be exported, converted, built or checked.
    """

    path: str
    form: Literal["file", "directory"]
    name: str
    version: str
    digest: str
    bytes: int
    files: Mapping[str, int]
    targets: Mapping[str, TargetState]
    parity: Mapping[str, str]
    golden: int
    signed_by: str = ""
    cached: bool = False
    wall_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.bundle-result/1`."""
        return {"schema": "mmtrt.bundle-result/1", **plain(asdict(self))}
