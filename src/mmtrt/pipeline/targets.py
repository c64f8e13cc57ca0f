"""From a target and a flavour to the builder's options."""

from __future__ import annotations

from dataclasses import replace

from mmtrt.engine.estimate import Gpu
from mmtrt.engine.options import BuildOptions
from mmtrt.engine.targets import load_target, target_names

__all__ = ["build_options", "target_gpu"]


def build_options(flavor: str = "auto", target: str | None = None) -> BuildOptions:
    """Return the target's options; a flavour that is named comes before the target's own."""
    options = load_target(target).options() if target else BuildOptions()
    return options if flavor == "auto" else replace(options, flavor=flavor)


_USUAL = "any-rtx"


def target_gpu(target: str | None = None) -> Gpu | None:
    """Return the GPU that estimates are made for: the target's, else that of `any-rtx`; None where there is none."""
    if target is None and _USUAL not in target_names():
        return None
    return load_target(target or _USUAL).gpu
