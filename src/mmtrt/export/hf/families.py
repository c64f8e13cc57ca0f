"""The kinds of fusion that transformers has, and which class is of which kind.

A kind says which outputs are worth having, and what of its inputs can't be read off `forward` and the configuration.
A class that stands here for none goes the general way (`inputs.py`): all of this is then found by trying.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from mmtrt.export.hf.facts import Vocabulary, number

__all__ = ["FAMILIES", "Family", "family_of"]

Span = tuple[int, int, int]
Inputs = dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One kind; what is not told is found from the model.

    `outputs` are taken in this order, those that a model gives; `inputs` are taken instead of what `forward` names;
    `constants` go into every call; `adapt` brings the inputs to what `forward` takes; `part` is what is exported of
    the loaded model; `text` is the sub-configuration that token ids index; `words` adds what the kind's texts need.
    """

    kind: str
    outputs: tuple[str, ...] = ()
    inputs: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    adapt: Callable[[Any, Inputs], Inputs] | None = None
    part: Callable[[nn.Module], nn.Module] | None = None
    text: str | None = None
    words: Callable[[Any, Vocabulary, Mapping[str, int]], Vocabulary] | None = None
    queries: Span | None = None
    batch: Span = (1, 2, 8)


def _texts_of_events(_: Any, inputs: Inputs) -> Inputs:
    """`(B, Q, T)` texts per event to `(B * Q, T)`, as detection by text takes them."""
    texts = {"input_ids", "attention_mask"}
    return {name: tensor.flatten(0, 1) if name in texts else tensor for name, tensor in inputs.items()}


def _unmasked(_: Any, inputs: Inputs) -> Inputs:
    """Give the text where pretraining takes one with words masked out."""
    return {**inputs, "input_ids_masked": inputs["input_ids"]}


def _led_by_queries(config: Any, words: Vocabulary, _: Mapping[str, int]) -> Vocabulary:
    """Put the placeholders first that BLIP-2's processor puts before a text, where it does."""
    token = number(config, "image_token_index")
    if token is None:
        return words
    # They are cut off before the table is read: any id will do, the processor's is beyond the table.
    return replace(words, lead=(token,) * int(config.num_query_tokens))


def _in_phrases(_: Any, words: Vocabulary, ids: Mapping[str, int]) -> Vocabulary:
    """Part phrases by full stops, as Grounding DINO's texts are; its code counts BERT's ids."""
    return replace(words, begin=101, end=102, stop=ids.get(".", 1012), special=words.special | {101, 102, 1012, 1029})


_DUAL = Family(kind="dual encoder", outputs=("logits_per_image", "image_embeds", "text_embeds"))
_AUDIO_DUAL = Family(kind="dual encoder", outputs=("logits_per_audio", "audio_embeds", "text_embeds"))
_EARLY = Family(
    kind="early fusion", outputs=("logits", "prediction_logits", "seq_relationship_logits", "pooler_output")
)
_STATES = Family(kind="early fusion", outputs=("last_hidden_state", "pooler_output"))
_CO = Family(
    kind="co-attention",
    outputs=(
        "question_answering_score",
        "cross_relationship_score",
        "prediction_logits",
        "language_output",
        "vision_output",
        "pooled_output",
    ),
)
_BRIDGE = Family(
    kind="cross attention",
    outputs=(
        "logits",
        "text_embeds",
        "image_embeds",
        "cross_embeds",
        "text_features",
        "image_features",
        "pooler_output",
    ),
    # It is taken and never read.
    without=("pixel_mask",),
)
_DETECTION = Family(
    kind="detection by text",
    outputs=("logits", "pred_boxes", "text_embeds", "class_embeds"),
    adapt=_texts_of_events,
    queries=(1, 4, 8),
    batch=(1, 2, 4),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "CLIPModel": _DUAL,
        "SiglipModel": _DUAL,
        "AlignModel": _DUAL,
        "ClapModel": _AUDIO_DUAL,
        "ViltModel": _STATES,
        "ViltForQuestionAnswering": _EARLY,
        "ViltForImageAndTextRetrieval": _EARLY,
        "ViltForMaskedLM": _EARLY,
        "VisualBertModel": _STATES,
        "VisualBertForQuestionAnswering": _EARLY,
        "VisualBertForPreTraining": _EARLY,
        "LxmertModel": _CO,
        "LxmertForQuestionAnswering": _CO,
        "LxmertForPreTraining": _CO,
        "FlavaModel": Family(
            kind="dual encoder and fusion", outputs=("image_embeddings", "text_embeddings", "multimodal_embeddings")
        ),
        "FlavaForPreTraining": Family(
            kind="dual encoder and fusion",
            outputs=("contrastive_logits_per_image", "itm_logits", "multimodal_masked_embeddings"),
            inputs=("input_ids", "pixel_values", "attention_mask", "token_type_ids"),
            constants={"return_loss": False},
            adapt=_unmasked,
        ),
        "BlipForImageTextRetrieval": Family(
            kind="cross attention matching", outputs=("itm_score",), constants={"use_itm_head": True}
        ),
        "Blip2ForImageTextRetrieval": Family(
            kind="cross attention matching",
            outputs=("logits_per_image",),
            constants={"use_image_text_matching_head": True},
            text="qformer_config",
            words=_led_by_queries,
        ),
        "BridgeTowerModel": _BRIDGE,
        "BridgeTowerForImageAndTextRetrieval": _BRIDGE,
        "BridgeTowerForContrastiveLearning": _BRIDGE,
        "BridgeTowerForMaskedLM": _BRIDGE,
        "WhisperModel": Family(
            kind="audio encoder",
            outputs=("last_hidden_state",),
            inputs=("input_features",),
            part=lambda model: model.get_encoder(),  # type: ignore[operator]
        ),
        "OwlViTForObjectDetection": _DETECTION,
        "Owlv2ForObjectDetection": replace(_DETECTION, outputs=(*_DETECTION.outputs, "objectness_logits")),
        "CLIPSegForImageSegmentation": Family(
            kind="segmentation by text",
            outputs=("logits",),
            inputs=("input_ids", "pixel_values", "attention_mask"),
            constants={"interpolate_pos_encoding": False},
        ),
        "GroundingDinoForObjectDetection": Family(
            kind="detection by text",
            outputs=("logits", "pred_boxes"),
            words=_in_phrases,
            batch=(1, 1, 2),
        ),
    }
)
_ALIKE = {
    "WhisperForConditionalGeneration": "WhisperModel",
    "WhisperForAudioClassification": "WhisperModel",
    "MMGroundingDinoForObjectDetection": "GroundingDinoForObjectDetection",
}


def family_of(architecture: str) -> Family | None:
    """Return the kind that a class is of, None for the general way."""
    return FAMILIES.get(_ALIKE.get(architecture, architecture))
