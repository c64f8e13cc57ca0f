"""What is done to one raw thing, a picture, a text or a tensor, to make the model's inputs of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmtrt.errors import InputError
from mmtrt.preprocess.pictures import read_picture
from mmtrt.preprocess.resizing import Resize, resized
from mmtrt.tensors import Array, TensorSpec, format_shape

__all__ = ["ImageRule", "Rule", "TensorRule", "TextRule"]

Size = Annotated[int, Field(ge=1, le=16384)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Absent = Literal["refused", "blank"]
Three = tuple[float, float, float]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ImageRule(_Frozen):
    """A picture, 8-bit RGB, `(height, width, 3)`, or grey, `(height, width)`, which counts as three equal channels.

    It is resized to `size` (height, width), stretched where the sides' ratio differs (`none` refuses other sizes), its
    channels are put in the order `channels`, and `(pixel / scale - mean) / std`, in float32 and `channels`' order, is
    laid out as `layout` says. `absent` tells what is fed where there is no picture: zeros, after the formula.
    """

    kind: Literal["image"] = "image"
    input: Name
    size: tuple[Size, Size]
    resize: Resize = "none"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: Positive = 255.0
    mean: Three = (0.0, 0.0, 0.0)
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    layout: Literal["CHW", "HWC"] = "CHW"
    absent: Absent = "refused"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it makes, without the batch axis."""
        shape = (3, *self.size) if self.layout == "CHW" else (*self.size, 3)
        return (TensorSpec(name=self.input, dtype="float32", shape=shape),)

    def make(self, name: str, value: Any) -> dict[str, Array]:
        """Make the input of a picture, or of a path to one; InputError says what is wrong with it."""
        pixels = resized(self._pixels(name, value), self.size, self.resize)
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        mean, std = np.array(self.mean, dtype=np.float32), np.array(self.std, dtype=np.float32)
        made = (pixels / np.float32(self.scale) - mean) / std
        return {self.input: np.ascontiguousarray(made.transpose(2, 0, 1) if self.layout == "CHW" else made)}

    def blank(self) -> dict[str, Array]:
        """Make the input of no picture."""
        return _zeros(self.inputs)

    def _pixels(self, name: str, value: Any) -> Array:
        pixels = read_picture(Path(value)) if isinstance(value, str | PathLike) else value
        if not isinstance(pixels, np.ndarray):
            raise InputError(
                f"{name!r} is a {type(value).__name__}, where a picture is wanted",
                fix="Give a path, or an array (height, width, 3) uint8 RGB: np.asarray(it.convert('RGB')) of Pillow's.",
            )
        if pixels.dtype != np.uint8:
            raise InputError(
                f"{name!r} is {pixels.dtype}, where a picture is uint8, 0 to 255",
                fix="Give the pixels as they are; scale, mean and deviation are applied here.",
            )
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise InputError(
                f"{name!r} is {format_shape(pixels.shape)}, where a picture is height x width x 3, RGB",
                fix="Put the channels last, and leave out transparency: picture[:, :, :3].",
            )
        if self.resize == "none" and pixels.shape[:2] != self.size:
            raise InputError(
                f"{name!r} is {format_shape(pixels.shape[:2])}, and {format_shape(self.size)} is taken",
                fix="Resize it as the model's training did; the preprocessing tells no method.",
            )
        return pixels


class TextRule(_Frozen):
    """A text, in words that a vocabulary knows: `words`, of which each one's id is its place.

    `lower` makes letters small first; each of `separators` parts words as white space does. `start` and `end` are put
    around; a word outside the vocabulary becomes `unknown`, or is refused without one. Fewer tokens than `length`
    (fewest, most) has are filled up with `pad` under a mask of 0, more are refused. `absent` tells what is fed where
    there is no text: `pad` alone under a mask of 0.
    """

    kind: Literal["text"] = "text"
    ids: Name
    mask: Name | None = None
    dtype: Literal["int64", "int32"] = "int64"
    words: Annotated[tuple[str, ...], Field(min_length=1, max_length=1_000_000)]
    pad: str
    start: str | None = None
    end: str | None = None
    unknown: str | None = None
    lower: bool = True
    separators: str = ""
    length: tuple[Size, Size]
    absent: Absent = "refused"

    @model_validator(mode="after")
    def _whole(self) -> TextRule:
        if len(self._places) < len(self.words):
            raise ValueError("a word stands twice in the vocabulary")
        for word in self._marks:
            if word not in self._places:
                raise ValueError(f"{word!r} is not in the vocabulary")
        if self.length[0] > self.length[1]:
            raise ValueError(f"length is {list(self.length)}, where [fewest, most] is wanted")
        return self

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @property
    def _marks(self) -> tuple[str, ...]:
        return tuple(word for word in (self.pad, self.start, self.end, self.unknown) if word is not None)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it makes, without the batch axis."""
        fewest, most = self.length
        shape = (fewest if fewest == most else "tokens",)
        names = (self.ids,) if self.mask is None else (self.ids, self.mask)
        return tuple(TensorSpec(name=name, dtype=self.dtype, shape=shape) for name in names)

    def make(self, name: str, value: Any) -> dict[str, Array]:
        """Make the inputs of a text; InputError says what is wrong with it."""
        if not isinstance(value, str):
            raise InputError(f"{name!r} is a {type(value).__name__}, where a text is wanted", fix="Give a string.")
        around = [self._places[word] for word in (self.start, self.end) if word is not None]
        ids = [self._id(name, word) for word in self._split(value)]
        if len(ids) + len(around) > self.length[1]:
            raise InputError(
                f"{name!r} has {len(ids)} words, and the model takes {self.length[1] - len(around)} at most",
                fix="Say it in fewer words.",
            )
        if self.start is not None:
            ids.insert(0, self._places[self.start])
        if self.end is not None:
            ids.append(self._places[self.end])
        return self._filled(ids, max(len(ids), self.length[0]))

    def blank(self) -> dict[str, Array]:
        """Make the inputs of no text."""
        return self._filled([], self.length[0])

    def longer(self, made: Mapping[str, Array], length: int) -> dict[str, Array]:
        """Fill the inputs of one text up to a length."""
        extra = length - len(made[self.ids])
        fill = {self.ids: self._places[self.pad]}
        return {name: np.pad(array, (0, extra), constant_values=fill.get(name, 0)) for name, array in made.items()}

    def _filled(self, ids: list[int], length: int) -> dict[str, Array]:
        made = {self.ids: np.array(ids, dtype=self.dtype)}
        if self.mask is not None:
            made[self.mask] = np.ones(len(ids), dtype=self.dtype)
        return self.longer(made, length)

    def _split(self, text: str) -> list[str]:
        text = text.lower() if self.lower else text
        return text.translate(dict.fromkeys(map(ord, self.separators), " ")).split()

    def _id(self, name: str, word: str) -> int:
        place = self._places.get(word)
        # What marks the start, say, is no word of a text.
        if place is not None and word not in self._marks:
            return place
        if self.unknown is not None:
            return self._places[self.unknown]
        near = get_close_matches(word, (known for known in self.words if known not in self._marks), n=1, cutoff=0.75)
        raise InputError(
            f"{name!r} holds {word!r}, which the model's vocabulary lacks",
            fix=f"Did you mean {near[0]!r}?" if near else f"It knows {len(self.words)} words; say it with those.",
        )


class TensorRule(_Frozen):
    """A tensor that is fed as it is, without the batch axis: a table, knowledge, sound; sizes by name may be any."""

    kind: Literal["tensor"] = "tensor"
    input: Name
    dtype: Literal["float32", "float16", "int64", "int32", "int8", "uint8", "bool"]
    shape: tuple[Size | Name, ...]
    absent: Absent = "refused"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it makes, without the batch axis."""
        return (TensorSpec(name=self.input, dtype=self.dtype, shape=self.shape),)

    def make(self, name: str, value: Any) -> dict[str, Array]:
        """Hand a tensor on; InputError where its type or its shape is another's."""
        wanted = f"{self.dtype} {format_shape(self.shape)}"
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"{name!r} is a {type(value).__name__}, where an array {wanted} is wanted",
                fix=f"Give np.asarray(..., dtype='{self.dtype}').",
            )
        fits = len(value.shape) == len(self.shape) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(self.shape, value.shape, strict=True)
        )
        if value.dtype != self.dtype or not fits:
            raise InputError(
                f"{name!r} is {value.dtype} {format_shape(value.shape)}, where {wanted} is wanted",
                fix="Leave out the batch axis, and convert it where it is made.",
            )
        return {self.input: value}

    def blank(self) -> dict[str, Array]:
        """Make the input where there is nothing; sizes by name are 1."""
        return _zeros(self.inputs)


def _zeros(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    return {s.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in s.shape], s.dtype) for s in specs}


Rule = Annotated[ImageRule | TextRule | TensorRule, Field(discriminator="kind")]
