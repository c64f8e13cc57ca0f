"""Reference fusion models: small ones trained on generated data, so that accuracy can be measured, and large ones.

Importing this package loads no framework; a factory's module loads torch when it is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REGISTRY: Mapping[str, str] = MappingProxyType(
    {
        "vqa-coattention": "mmtrt.zoo.vqa_coattention:factory",
        "vqa-r18-bert": "mmtrt.zoo.vqa_bert:vqa_r18_bert",
        "vqa-r50-bert": "mmtrt.zoo.vqa_bert:vqa_r50_bert",
        "vqa-r101-bert": "mmtrt.zoo.vqa_bert:vqa_r101_bert",
    }
)
"""Model name -> `module:callable`, each callable being a factory that takes no arguments."""

TRAINED: tuple[str, ...] = ("vqa-coattention",)
"""Models that `python -m mmtrt.zoo.train` trains, with a checkpoint in the package; the others have random weights."""


def names() -> tuple[str, ...]:
    """List the models of the zoo, sorted."""
    return tuple(sorted(REGISTRY))
