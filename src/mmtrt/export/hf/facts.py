"""What a model's configuration and its processor's files say of its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from mmtrt.export.hf.loading import load_json

__all__ = ["Facts", "Vocabulary", "number", "parts_of", "read_facts"]

LONGEST_TEXT = 512
"""Where a model takes more, or tells no end: a profile's largest shape is verified and built for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token ids: how many there are, which begin, end and pad a text, and which a text is led by.

    `special` are those that a drawn text must not hold by chance; `stop` separates phrases, where a model counts them.
    """

    size: int
    begin: int | None = None
    end: int | None = None
    pad: int = 0
    stop: int | None = None
    special: frozenset[int] = frozenset()
    lead: tuple[int, ...] = ()
    longest: int = LONGEST_TEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """The configuration, and the processor's and the tokenizer's JSON, empty where there is none."""

    config: Any
    picture: Mapping[str, Any] = field(default_factory=dict)
    sound: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    ids: Mapping[str, int] = field(default_factory=dict)

    def vocabulary(self, model: nn.Module, *, part: str | None = None) -> Vocabulary:
        """Return what is known of token ids; `part` names the sub-configuration whose table they index."""
        config = getattr(self.config, part) if part else self.config.get_text_config()
        size = number(config, "vocab_size") or LONGEST_TEXT
        begin = self._id("cls_token", "bos_token", config, "bos_token_id", "cls_token_id")
        end = self._id("sep_token", "eos_token", config, "eos_token_id", "sep_token_id")
        pad = self._id("pad_token", "unk_token", config, "pad_token_id")
        taken = {self.ids[text] for text in self._special_texts() if text in self.ids}
        own = {token for token in (begin, end, pad) if token is not None and 0 <= token < size}
        return Vocabulary(
            size=size,
            begin=begin if begin in own else None,
            end=end if end in own else None,
            pad=pad if pad is not None and pad in own else 0,
            special=frozenset(own | {token for token in taken if token < size} | {0}),
            longest=self._longest(model, config),
        )

    def _special_texts(self) -> Iterator[str]:
        for key, value in self.tokenizer.items():
            if key.endswith("_token"):
                yield str(value.get("content") if isinstance(value, Mapping) else value)

    def _id(self, first: str, second: str, config: Any, *keys: str) -> int | None:
        """Return a token's id by the tokenizer, else by the configuration."""
        for name in (first, second):
            value = self.tokenizer.get(name)
            text = str(value.get("content") if isinstance(value, Mapping) else value)
            if text in self.ids:
                return self.ids[text]
        for key in keys:
            found = number(config, key)
            if found is not None:
                return found
        return None

    def _longest(self, model: nn.Module, config: Any) -> int:
        told = number(config, "max_position_embeddings")
        spoken = number(self.config, "max_text_len") or number(config, "max_target_positions")
        ends = (told, spoken, number(self.tokenizer, "model_max_length"))
        longest = min(LONGEST_TEXT, *filter(None, ends))
        for part in model.modules():
            table, skipped = getattr(part, "position_embeddings", None), getattr(part, "padding_idx", None)
            # RoBERTa's kind counts positions from behind the padding's row.
            if isinstance(table, nn.Embedding) and table.num_embeddings == told and isinstance(skipped, int):
                longest = min(longest, table.num_embeddings - skipped - 1)
        return longest


def read_facts(name: str, config: Any) -> Facts:
    """Read the files of the processor and the tokenizer that lie beside a configuration."""
    alone = load_json(name, "preprocessor_config.json") or {}
    together = load_json(name, "processor_config.json") or {}
    tokenizer = load_json(name, "tokenizer_config.json") or {}
    return Facts(
        config=config,
        picture={**alone, **_mapping(together, "image_processor"), **_mapping(together, "video_processor")},
        sound={**alone, **_mapping(together, "feature_extractor")},
        tokenizer={**(load_json(name, "special_tokens_map.json") or {}), **tokenizer},
        ids=_token_ids(name, tokenizer),
    )


def _token_ids(name: str, tokenizer: Mapping[str, Any]) -> dict[str, int]:
    whole = load_json(name, "tokenizer.json") or {}
    model = _mapping(whole, "model")
    vocabulary = model.get("vocab")
    found: dict[str, int] = {}
    if isinstance(vocabulary, Mapping):
        found.update({text: token for text, token in vocabulary.items() if isinstance(token, int)})
    elif isinstance(vocabulary, list):  # Unigram: pairs of text and score.
        found.update({str(row[0]): token for token, row in enumerate(vocabulary) if row})
    elif not whole:
        found.update(load_json(name, "vocab.json") or {})
    for row in whole.get("added_tokens") or ():
        found[row["content"]] = row["id"]
    for token, row in _mapping(tokenizer, "added_tokens_decoder").items():
        found[row["content"]] = int(token)
    return found


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = data.get(key)
    return found if isinstance(found, Mapping) else {}


def number(data: Any, key: str) -> int | None:
    """Return a whole number of a configuration or a dict of it; None where there is none, or a list."""
    value = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parts_of(config: Any) -> Iterator[Any]:
    """Yield a configuration and its parts, those for pictures, sound and text, the outermost first."""
    yield config
    for name in getattr(type(config), "sub_configs", {}):
        part = getattr(config, name, None)
        if part is not None:
            yield from parts_of(part)
