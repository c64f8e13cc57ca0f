"""From a target and a flavour to the builder's options."""

from __future__ import annotations

from dataclasses import replace

from mmtrt.engine.options import BuildOptions
from mmtrt.engine.targets import load_target

__all__ = ["build_options"]


def build_options(flavor: str = "auto", target: str | None = None) -> BuildOptions:
    """Return the target's options; a flavour that is named comes before the target's own."""
    options = load_target(target).options() if target else BuildOptions()
    return options if flavor == "auto" else replace(options, flavor=flavor)
