"""A deploy for people: what was done, what ran, what is now current."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["deploy_rows"]


def deploy_rows(told: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values of `mmtrt.deploy/1`; what was not reached is left out."""
    rows = {
        "state": str(told["state"]),
        "bundle": f"{told['name']} {told['version']}  ({told['digest'][:12]})",
        "signed by": told["signed_by"] or "nobody was asked for",
        "target": f"{told['target']}, {told['precision']}",
        "engine": _engine(told),
        "ran": told["ran"],
        "parity": _parity(told["parity"]),
        "latency": _latency(told["latency"]),
        "version": told["version_directory"],
        "before": told["previous"],
        "current": "switched" if told["switched"] else "as it was",
    }
    return {name: text for name, text in rows.items() if text}


def _engine(told: Mapping[str, Any]) -> str:
    how = f"{told['engine']}, " if told["engine"] else ""
    took = f", in {told['build_s']:.1f} s" if told["build_s"] is not None else ""
    return f"{how}{told['flavor']} {told['flavor_version']}{took}"


def _parity(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    lines = [f"{told['verdict']} over {told['samples']} golden samples"]
    for name, output in told["outputs"].items():
        lines += [f"{name}: {why}" for why in output["why"] if output["verdict"] != "pass"]
    return "\n".join(lines)


def _latency(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return ""
    return f"p50 {told['p50_ms']:.3f} ms, p99 {told['p99_ms']:.3f} ms, n {told['n']}, {told['clock']}"
