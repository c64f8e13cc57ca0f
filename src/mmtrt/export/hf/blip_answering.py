"""BLIP for question answering in four parts: vision encoder, question encoder, prefill and decoder step.

What `BlipForQuestionAnswering.generate` does in one call, with the same weights and the same phrases:

1. `vision`: the picture, once.
2. `question`: the question, looking at the picture, once.
3. `prefill`: the keys and values of the decoder's cross-attention over the question, once; see decision 0027.
4. `decoder`: one token, with the keys and values of the tokens before it as its cache.

`generate` looks at all tokens of the question, those that are padding too; so does the decoder here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmtrt.export.hf.wrapper import facts_of, told_of
from mmtrt.parts.declared import Pipeline, Step
from mmtrt.samples import Sample
from mmtrt.tensors import Array

__all__ = ["pipeline_of"]

_SEED = 2026
_QUESTION = 16
"""Tokens of a long question."""
_DEFAULT_STEPS = 20
"""Tokens of an answer, its start not counted, where no configuration says: `generate`'s own default."""


class _Part(nn.Module):
    """A part of the model; `facts` holds the digest of its configuration, so that it counts among the weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.register_buffer("facts", facts_of(told_of(config)))


class Vision(_Part):
    """`pixel_values` `(B, 3, H, W)` to `image_embeds` `(B, R, D)`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.config)
        self.model = model.vision_model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the last layer's states."""
        states: Tensor = self.model(pixel_values=pixel_values).last_hidden_state
        return states


class Question(_Part):
    """`input_ids`, `attention_mask` `(B, T)` and `image_embeds` to `question_embeds` `(B, T, D)`."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.config)
        self.model = model.text_encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, image_embeds: Tensor) -> Tensor:
        """Return the states of the question, each of which has seen the picture."""
        told = self.model(input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=image_embeds)
        states: Tensor = told.last_hidden_state
        return states


def _heads(states: Tensor, attention: Any) -> Tensor:
    """`(B, T, D)` to `(B, heads, T, D / heads)`."""
    return states.unflatten(-1, (attention.num_attention_heads, attention.attention_head_size)).transpose(1, 2)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over `(B, heads, T, d)`, heads joined again: `(B, 1, D)`."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2).flatten(2)


class Prefill(_Part):
    """`question_embeds` to `cross_key_N` and `cross_value_N` `(B, heads, T, d)` of each layer of the decoder."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.config)
        layers = model.text_decoder.bert.encoder.layer
        self.attentions = nn.ModuleList([layer.crossattention.self for layer in layers])

    def forward(self, question_embeds: Tensor) -> tuple[Tensor, ...]:
        """Return key and value of each layer in turn."""
        found: list[Tensor] = []
        attention: Any
        for attention in self.attentions:
            found += [_heads(made(question_embeds), attention) for made in (attention.key, attention.value)]
        return tuple(found)


class DecoderStep(_Part):
    """One token to the logits of the next one, with the cache of those before it.

    Inputs are `token` `(B, 1)`, for each layer `cross_key_N` and `cross_value_N` as `Prefill` gives them, and
    `past_key_N` and `past_value_N` `(B, heads, P, d)`. Slot 0 of the cache is empty: it is cut off before anything
    looks at it, so that no tensor is ever empty and none needs a mask. Outputs are `logits` `(B, V)` and the caches
    with one slot more.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model.config)
        decoder = model.text_decoder
        self.embeddings = decoder.bert.embeddings
        self.layers = decoder.bert.encoder.layer
        self.head = decoder.cls

    def run(self, token: Tensor, **caches: Tensor) -> tuple[Tensor, ...]:
        """Run all layers on one position."""
        # The first token stands at 0, beside one empty slot.
        place = torch.arange(caches["past_key_0"].shape[2])[-1:]
        states = self.embeddings(input_ids=token, position_ids=place[None])
        present: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            own, other = layer.attention.self, layer.crossattention.self
            key = torch.cat([caches[f"past_key_{index}"], _heads(own.key(states), own)], dim=2)
            value = torch.cat([caches[f"past_value_{index}"], _heads(own.value(states), own)], dim=2)
            present += [key, value]
            seen = _attended(_heads(own.query(states), own), key[:, :, 1:], value[:, :, 1:])
            states = layer.attention.output(seen, states)
            query = _heads(other.query(states), other)
            seen = _attended(query, caches[f"cross_key_{index}"], caches[f"cross_value_{index}"])
            states = layer.crossattention.output(seen, states)
            states = layer.feed_forward_chunk(states)
        return (self.head(states)[:, 0], *present)


def _of_layers(kind: str, count: int) -> list[str]:
    return [f"{kind}_{what}_{index}" for index in range(count) for what in ("key", "value")]


def _decoder_step(model: Any) -> DecoderStep:
    """Return a step whose `forward` names its inputs one by one: exporters read the signature."""
    count = len(model.text_decoder.bert.encoder.layer)
    names = ["self", "token", *_of_layers("cross", count), *_of_layers("past", count)]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        given = dict(signature.bind(*args, **kwargs).arguments)
        module: DecoderStep = given.pop("self")
        return module.run(**given)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    own = type(
        "DecoderStep", (DecoderStep,), {"forward": forward, "__module__": __name__, "__doc__": DecoderStep.__doc__}
    )
    made: DecoderStep = own(model)
    return made.eval()


def pipeline_of(model: Any) -> Pipeline:
    """Return the parts of a loaded `BlipForQuestionAnswering` and what feeds what; samples are drawn at random."""
    config, step = model.config, _step(model)
    cross = _of_layers("cross", len(model.text_decoder.bert.encoder.layer))
    events = list(_events(config, 2))
    shortest = min(len(event["input_ids"]) for event in events)
    text = {"input_ids": {0: "batch", 1: "text"}, "attention_mask": {0: "batch", 1: "text"}}
    return Pipeline(
        parts={
            "vision": (
                Vision(model).eval(),
                {"pixel_values": np.stack([event["pixel_values"] for event in events])},
                {"pixel_values": {0: "batch"}},
                {"outputs": ["image_embeds"], "ranges": {"batch": [1, 2, 8]}},
            ),
            "question": (
                Question(model).eval(),
                {name: np.stack([event[name][:shortest] for event in events]) for name in text},
                {**text, "image_embeds": {0: "batch"}},
                {
                    "outputs": ["question_embeds"],
                    "ranges": {"text": [2, min(8, _longest(config)), _longest(config)]},
                    "modalities": {"text": list(text), "image": ["image_embeds"]},
                },
            ),
            "prefill": (
                Prefill(model).eval(),
                {},
                {"question_embeds": {0: "batch", 1: "text"}},
                {"outputs": cross},
            ),
            "decoder": _decoder_part(model, step, cross),
        },
        links=[
            "vision.image_embeds -> question.image_embeds",
            "question.question_embeds -> prefill.question_embeds",
            *(f"prefill.{name} -> decoder.{name}" for name in cross),
        ],
        step=step,
        samples=_Drawn(config),
    )


def _step(model: Any) -> Step:
    text, layers = model.config.text_config, len(model.text_decoder.bert.encoder.layer)
    return Step(
        part="decoder",
        token="token",  # noqa: S106 -- an input's name
        logits="logits",
        cache=dict(zip(_of_layers("past", layers), _of_layers("present", layers), strict=True)),
        start=model.decoder_start_token_id,
        end=text.sep_token_id,
        pad=text.pad_token_id,
        steps=_steps(model),
    )


def _decoder_part(model: Any, step: Step, cross: list[str]) -> tuple[Any, ...]:
    attention = model.text_decoder.bert.encoder.layer[0].attention.self
    past = torch.zeros(2, attention.num_attention_heads, 2, attention.attention_head_size)
    axes = {
        "token": {0: "batch"},
        **{name: {0: "batch", 2: "text"} for name in cross},
        **{name: {0: "batch", 2: step.length} for name in step.cache},
    }
    inputs = {"token": torch.full((2, 1), step.start), **dict.fromkeys(step.cache, past)}
    return _decoder_step(model), inputs, axes, {"outputs": ["logits", *step.cache.values()]}


def _longest(config: Any) -> int:
    """Return the most tokens of a question, unless a recipe's ranges say otherwise."""
    return min(_QUESTION, int(config.text_config.max_position_embeddings))


def _steps(model: Any) -> int:
    """Return the most tokens of an answer, as `generate` would make them."""
    told = model.text_decoder.generation_config
    if told.max_new_tokens is not None:
        return int(told.max_new_tokens)
    return _DEFAULT_STEPS if told.max_length is None else int(told.max_length) - 1


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Events that are drawn from the configuration: what is calibrated on them was not calibrated on data."""

    config: Any
    on_data: ClassVar[bool] = False

    def __call__(self, count: int = 256) -> Iterator[Sample]:
        """Yield `count` events, the same each time."""
        yield from _events(self.config, count)


def _events(config: Any, count: int) -> Iterator[dict[str, Array]]:
    """Yield events drawn at random: short and long questions, padded ones, and such that lack picture or question."""
    text, side = config.text_config, config.vision_config.image_size
    special = {text.pad_token_id, text.bos_token_id, text.sep_token_id}
    words = np.array([token for token in range(text.vocab_size) if token not in special])
    for index in range(count):
        rng = np.random.default_rng((_SEED, index))
        length = int(rng.integers(4, _longest(config) + 1))
        mask = np.ones(length, dtype=np.int64)
        if index % 4 == 3:
            mask[length // 2 :] = 0
        if index % 16 == 9:
            mask[:] = 0
        picture = rng.standard_normal((3, side, side), dtype=np.float32) * np.float32(index % 16 != 5)
        ids = np.where(mask > 0, rng.choice(words, length), text.pad_token_id)
        yield {"pixel_values": picture, "input_ids": ids, "attention_mask": mask}
