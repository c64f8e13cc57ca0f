"""Reference fusion models: small ones trained on generated data, so that accuracy can be measured, and large ones.

Importing this package loads no framework; a factory's module loads torch when it is resolved.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

REGISTRY: Mapping[str, str] = MappingProxyType(
    {
        "vqa-early": "mmtrt.zoo.models.vqa_early:factory",
        "vqa-late": "mmtrt.zoo.models.vqa_late:factory",
        "vqa-attention": "mmtrt.zoo.models.vqa_attention:factory",
        "vqa-coattention": "mmtrt.zoo.models.vqa_coattention:factory",
        "vqa-knowledge": "mmtrt.zoo.models.vqa_knowledge:factory",
        "dialogue": "mmtrt.zoo.models.dialogue:factory",
        "retrieval": "mmtrt.zoo.models.retrieval:factory",
        "audio-text": "mmtrt.zoo.models.audio_text:factory",
        "recommend": "mmtrt.zoo.models.recommend:factory",
        "medical": "mmtrt.zoo.models.medical:factory",
        "vqa-r18-bert": "mmtrt.zoo.models.vqa_bert:vqa_r18_bert",
        "vqa-r50-bert": "mmtrt.zoo.models.vqa_bert:vqa_r50_bert",
        "vqa-r101-bert": "mmtrt.zoo.models.vqa_bert:vqa_r101_bert",
        "bev": "mmtrt.zoo.models.bev:factory",
        "video": "mmtrt.zoo.models.video:factory",
    }
)
"""Model name -> `module:callable`, each callable being a factory that takes no arguments."""

TRAINED: Mapping[str, str] = MappingProxyType(
    {
        "vqa-early": "mmtrt.zoo.models.vqa_early:LESSON",
        "vqa-late": "mmtrt.zoo.models.vqa_late:LESSON",
        "vqa-attention": "mmtrt.zoo.models.vqa_attention:LESSON",
        "vqa-coattention": "mmtrt.zoo.models.vqa_coattention:LESSON",
        "retrieval": "mmtrt.zoo.models.retrieval:LESSON",
        "audio-text": "mmtrt.zoo.models.audio_text:LESSON",
        "recommend": "mmtrt.zoo.models.recommend:LESSON",
        "medical": "mmtrt.zoo.models.medical:LESSON",
        "bev": "mmtrt.zoo.models.bev:LESSON",
        "video": "mmtrt.zoo.models.video:LESSON",
        "vqa-knowledge": "mmtrt.zoo.models.vqa_knowledge:LESSON",
        "dialogue": "mmtrt.zoo.models.dialogue:LESSON",
    }
)
"""Model name -> `module:LESSON`: what `python -m mmtrt.zoo.train` trains, with a checkpoint in `mmtrt-zoo`.

The models of REGISTRY that are not here have random weights.
"""


def names() -> tuple[str, ...]:
    """List the models of the zoo, sorted."""
    return tuple(sorted(REGISTRY))
