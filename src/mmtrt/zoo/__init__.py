"""Reference fusion models: small, trained on generated data, so that accuracy after export can be measured.

Importing this package loads no framework; a factory's module loads torch when it is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REGISTRY: Mapping[str, str] = MappingProxyType({"vqa-coattention": "mmtrt.zoo.vqa_coattention:factory"})
"""Model name -> `module:callable`, each callable being a factory that takes no arguments."""


def names() -> tuple[str, ...]:
    """List the models of the zoo, sorted."""
    return tuple(sorted(REGISTRY))
