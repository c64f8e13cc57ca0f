"""The inputs of a model, from what its `forward` names: one way or several to make each, to be tried.

`forward` tells names, not shapes: the configuration and the processor tell sizes, and where they leave more than
one reading (an image size by the processor and another by the position table, features as `(mels, frames)` or
`(frames, mels)`), the model itself is asked.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmtrt.errors import ModelError
from mmtrt.export.hf.facts import Facts, Vocabulary, number, parts_of
from mmtrt.export.hf.families import Family
from mmtrt.export.hf.loading import WRITE_ONE
from mmtrt.export.hf.streams import Stream, array_stream, region_stream, text_stream

__all__ = ["KNOWN", "input_names", "stream_choices"]

_TEXT = ("input_ids", "attention_mask", "token_type_ids", "bbox")
_REGIONS = ("visual_embeds", "visual_feats", "visual_pos", "visual_attention_mask", "visual_token_type_ids")
_DECODER = ("decoder_input_ids", "decoder_attention_mask")
_IMAGE = ("pixel_values", "pixel_mask", "flattened_patches")
_AUDIO = ("input_features", "input_values", "is_longer")
KNOWN = frozenset({*_TEXT, *_REGIONS, *_DECODER, *_IMAGE, *_AUDIO})
"""The inputs that mmtrt knows how to draw."""

_SAMPLING_RATE = 16_000


def input_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of `forward`."""
    return inspect.signature(model.forward).parameters


def input_names(reference: str, model: nn.Module, family: Family | None) -> tuple[str, ...]:
    """Return the inputs that are given, in the order of `forward`; ModelError names one that nobody can make."""
    if family and family.inputs:
        return family.inputs
    parameters = input_parameters(model)
    without = family.without if family else ()
    for name, parameter in parameters.items():
        variadic = parameter.kind in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
        if parameter.default is parameter.empty and not variadic and name not in KNOWN:
            raise ModelError(
                f"{reference}: {type(model).__name__}.forward wants {name!r}, and mmtrt knows no way to make one",
                fix=WRITE_ONE,
            )
    names = tuple(name for name in parameters if name in KNOWN and name not in without)
    if not names:
        raise ModelError(
            f"{reference}: {type(model).__name__}.forward takes {', '.join(parameters)}: nothing that mmtrt can make",
            fix=WRITE_ONE,
        )
    return names


def stream_choices(
    facts: Facts, model: nn.Module, names: Collection[str], family: Family | None, *, ends_stay: bool = False
) -> Iterator[tuple[Stream, ...]]:
    """Yield ways to make all inputs, the likeliest first."""
    choices: list[list[Stream]] = []
    makers: Mapping[tuple[str, ...], Callable[..., list[Stream]]] = {
        _TEXT: _texts,
        _IMAGE: _pictures,
        _REGIONS: _regions,
        _AUDIO: _sounds,
        _DECODER: _decoder_texts,
    }
    left = set(names)
    for group, make in makers.items():
        mine = [name for name in group if name in left]
        if not mine or (group is _TEXT and "input_ids" not in mine):
            continue
        choices.append(make(facts, model, [*mine, *_masks_of(group, names)], family, ends_stay=ends_stay))
        left -= set(mine)
    yield from itertools.product(*choices)


def _masks_of(group: tuple[str, ...], names: Collection[str]) -> list[str]:
    """`attention_mask` belongs to the text, and where there is none to the sound or the patches."""
    other = group in {_IMAGE, _AUDIO} and "input_ids" not in names
    return ["attention_mask"] if other and "attention_mask" in names and "pixel_values" not in names else []


def _words(facts: Facts, model: nn.Module, family: Family | None) -> Vocabulary:
    words = facts.vocabulary(model, part=family.text if family else None)
    return family.words(facts.config, words, facts.ids) if family and family.words else words


def _texts(facts: Facts, model: nn.Module, mine: list[str], family: Family | None, *, ends_stay: bool) -> list[Stream]:
    queries = family.queries if family else None
    words = _words(facts, model, family)
    token = _placeholder(facts) if family is None and "pixel_values" in input_parameters(model) else None
    if token is None:
        return [text_stream(mine, words, queries=queries, ends_stay=ends_stay)]
    text = text_stream(mine, replace(words, special=words.special | {token}), ends_stay=ends_stay)
    return [replace(text, adapt=partial(_led_by_image, token, count)) for count in _image_features(facts)]


def _placeholder(facts: Facts) -> int | None:
    told = (number(facts.config, key) for key in ("image_token_index", "image_token_id"))
    return next((found for found in told if found is not None), None)


def _image_features(facts: Facts) -> list[int]:
    """Return how many features of an image a text may have to have room for: as told, else as many as its patches."""
    patches = [
        (side // patch) ** 2
        for part in parts_of(facts.config)
        for side, patch in [(number(part, "image_size"), number(part, "patch_size"))]
        if side and patch
    ]
    told = [number(facts.config, key) for key in ("num_query_tokens", "image_seq_length", "mm_tokens_per_image")]
    return list(dict.fromkeys([*filter(None, told), *patches, *(count + 1 for count in patches)]))


def _led_by_image(token: int, count: int, _: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put an image's placeholders before a text: the user gives the text alone, of any length."""
    ids = inputs["input_ids"]
    lead = torch.full((ids.shape[0], count), token, dtype=ids.dtype, device=ids.device)
    given = {**inputs, "input_ids": torch.cat([lead, ids], dim=1)}
    for name, first in (("attention_mask", 1), ("token_type_ids", 0)):
        if name in inputs:
            given[name] = torch.cat([torch.full_like(lead, first), inputs[name]], dim=1)
    return given


def _decoder_texts(
    facts: Facts, model: nn.Module, mine: list[str], family: Family | None, *, ends_stay: bool
) -> list[Stream]:
    words = _words(facts, model, family)
    return [text_stream(mine, words, name="decoder", prefix="decoder_", ends_stay=ends_stay)]


def _pictures(facts: Facts, _: nn.Module, mine: list[str], *__: Any, **___: Any) -> list[Stream]:
    if "flattened_patches" in mine:
        return [_patches(facts, mine)]
    made = []
    for channels, height, width in _picture_shapes(facts):
        frames = next(filter(None, (number(part, "num_frames") for part in parts_of(facts.config))), None)
        shape = (channels, height, width) if frames is None else (frames, channels, height, width)
        shapes: dict[str, tuple[int | str, ...]] = {"pixel_values": shape}
        if "pixel_mask" in mine:
            shapes["pixel_mask"] = (height, width)
        made.append(array_stream("image", shapes, masks=("pixel_mask",)))
    return made


def _picture_shapes(facts: Facts) -> Iterator[tuple[int, int, int]]:
    """Yield (channels, height, width) as the processor says, then as the position table does."""
    parts = list(parts_of(facts.config))
    channels = next(filter(None, (number(part, "num_channels") for part in parts)), 3)
    told: list[tuple[int, int]] = []
    for key in ("crop_size", "size"):
        told.extend(_height_width(facts.picture.get(key)))
    for part in parts:
        for key in ("image_size", "input_size", "max_img_size"):
            told.extend(_height_width(getattr(part, key, None)))
    for height, width in dict.fromkeys(told or [(224, 224)]):
        yield channels, height, width


def _height_width(size: Any) -> list[tuple[int, int]]:
    if isinstance(size, int) and not isinstance(size, bool):
        return [(size, size)]
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return [(int(size[0]), int(size[1]))]
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return [(int(size["height"]), int(size["width"]))]
        edge = number(size, "shortest_edge")
        return [(edge, edge)] if edge else []
    return []


def _patches(facts: Facts, mine: list[str]) -> Stream:
    """Patches with their row and column first, `(P, 2 + C * size * size)`, as Pix2Struct takes them."""
    parts = list(parts_of(facts.config))
    size = next(filter(None, (number(part, "patch_size") for part in parts)), 16)
    channels = next(filter(None, (number(part, "num_channels") for part in parts)), 3)
    count = number(facts.picture, "max_patches") or number(facts.config, "seq_len") or 64
    shapes: dict[str, tuple[int | str, ...]] = {"flattened_patches": ("patches", 2 + channels * size * size)}
    if "attention_mask" in mine:
        shapes["attention_mask"] = ("patches",)
    stream = array_stream(
        "image",
        shapes,
        ranges={"patches": (min(4, count), count, count)},
        masks=("attention_mask",),
        kinds={"attention_mask": np.float32},
    )
    return _with_places(stream)


def _with_places(stream: Stream) -> Stream:
    """Put rows and columns, which index tables, into the first two values of each patch."""

    def draw(*args: Any) -> dict[str, Any]:
        drawn = stream.draw(*args)
        patches = drawn["flattened_patches"]
        side = max(int(np.sqrt(len(patches))), 1)
        places = np.arange(len(patches))
        patches[:, 0], patches[:, 1] = 1 + places // side, 1 + places % side
        return drawn

    return Stream(name=stream.name, draw=draw, axes=stream.axes, ranges=stream.ranges)


def _regions(facts: Facts, _: nn.Module, mine: list[str], *__: Any, **___: Any) -> list[Stream]:
    features = "visual_embeds" if "visual_embeds" in mine else "visual_feats"
    widths = [number(facts.config, key) for key in ("visual_embedding_dim", "visual_feat_dim")]
    width = next(filter(None, widths), 2048)
    return [region_stream(features, width, [name for name in mine if name != features])]


def _sounds(facts: Facts, _: nn.Module, mine: list[str], *__: Any, **___: Any) -> list[Stream]:
    others: dict[str, tuple[int | str, ...]] = {}
    if "input_values" in mine:
        rate = number(facts.sound, "sampling_rate") or _SAMPLING_RATE
        if "attention_mask" in mine:
            others["attention_mask"] = ("samples",)
        span = (rate // 2, rate, 4 * rate)
        return [array_stream("audio", {"input_values": ("samples",), **others}, ranges={"samples": span}, masks=others)]
    if "is_longer" in mine and any(getattr(part, "enable_fusion", False) for part in parts_of(facts.config)):
        others["is_longer"] = (1,)
    kinds = {"is_longer": np.bool_}
    made = []
    for shape in _feature_shapes(facts):
        frames: dict[str, tuple[int | str, ...]] = {"attention_mask": shape[:1]} if "attention_mask" in mine else {}
        shapes: dict[str, tuple[int | str, ...]] = {"input_features": shape, **others, **frames}
        made.append(array_stream("audio", shapes, masks=("is_longer", "attention_mask"), kinds=kinds))
    return made


def _feature_shapes(facts: Facts) -> Iterator[tuple[int, ...]]:
    """Yield shapes of a sound's spectrum: mels and frames, frames and mels, with a channel before them."""
    parts = list(parts_of(facts.config))

    def first(*keys: str) -> int | None:
        found = (number(part, key) for key in keys for part in parts)
        return next(filter(None, found), None)

    mels = number(facts.sound, "feature_size") or first("num_mel_bins", "feature_size", "input_feat_per_channel") or 80
    frames = _frames(facts) or 2 * (first("max_source_positions") or 0) or 256
    spectrum = first("spec_size")
    if spectrum:  # A picture of the sound; several crops of it where they are fused.
        wide = spectrum * spectrum // (first("num_mel_bins") or mels)
        fused = any(getattr(part, "enable_fusion", False) for part in parts)
        yield (4 if fused else 1, min(_frames(facts) or wide, wide), mels)
    yield (mels, frames)
    yield (frames, mels)
    yield (1, frames, mels)


def _frames(facts: Facts) -> int | None:
    samples, hop = (
        number(facts.sound, "nb_max_samples") or number(facts.sound, "n_samples"),
        number(facts.sound, "hop_length"),
    )
    if not samples or not hop:
        return None
    # CLAP's spectrum counts both ends, Whisper's cuts the last.
    return samples // hop + (1 if "nb_max_samples" in facts.sound else 0)
