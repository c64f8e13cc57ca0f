"""What a weighted node multiplies its weight with: a few rows of each sample, kept while the set passes by.

A row is what meets one column of the weight: a token for a product, a window for a convolution. Rows tell what a
threshold or a changed weight does to the node's result, which a histogram of its input can't.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmtrt.precision.graph import MacNode, attribute, constant
from mmtrt.tensors import Array

__all__ = ["Geometry", "RowSamples", "from_matrix", "geometry", "pads", "repeat", "weight_matrix"]

_SAMPLES = 128
_ROWS = 4
"""Rows kept of one sample and node: with _SAMPLES samples, 512 a node."""

_ODD = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F], dtype=np.uint64)
"""Odd multipliers that spread checksums evenly (Knuth 1998, The Art of Computer Programming 3, 6.4)."""

_Float32 = npt.NDArray[np.float32]
_Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Geometry:
    """How rows lie in an activation: along `axis` for a product; as windows of `kernel` for a convolution."""

    axis: int = -1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()


def geometry(mac: MacNode) -> Geometry | None:
    """Return how a node reads its activation; None where its rows are not kept.

    Those are grouped, 1-D and 3-D convolutions, and products of more than one matrix or with factors of their own.
    """
    weight = constant(mac.node.inputs[mac.weight]) if mac.weight is not None else None
    if weight is None:
        return None
    if mac.node.op_type == "Conv":
        return _windows(mac, weight)
    if mac.node.op_type == "Gemm":
        if any(float(a.value) != 1 for name, a in mac.node.attributes.items() if name in {"alpha", "beta"}):
            return None
        transposed = attribute(mac.node, "transA" if mac.weight == 1 else "transB", 0)
        return Geometry(axis=(0 if transposed else 1) if mac.weight == 1 else (1 if transposed else 0))
    if mac.node.op_type == "MatMul" and weight.ndim == 2:
        return Geometry(axis=-1 if mac.weight == 1 else -2)
    return None


def _windows(mac: MacNode, weight: Array) -> Geometry | None:
    attributes = mac.node.attributes
    if weight.ndim != 4 or attribute(mac.node, "group", 1) != 1:
        return None
    auto_pad = attributes.get("auto_pad")
    if auto_pad is not None and auto_pad.value not in {"NOTSET", "VALID"}:
        return None

    def ints(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        found = attributes.get(name)
        return default if found is None else tuple(int(i) for i in found.value)

    return Geometry(
        axis=1,
        kernel=weight.shape[2:],
        strides=ints("strides", (1, 1)),
        dilations=ints("dilations", (1, 1)),
        pads=ints("pads", (0, 0, 0, 0)),
    )


def repeat(mac: MacNode) -> int:
    """Return how often a row holds each channel: as often as the kernel has places."""
    how = geometry(mac)
    return math.prod(how.kernel) if how is not None and how.kernel else 1


def pads(mac: MacNode) -> tuple[int, ...]:
    """Return the zeros that a convolution puts around its input."""
    how = geometry(mac)
    return how.pads if how is not None else ()


def weight_matrix(mac: MacNode, weight: Array) -> _Float32:
    """Return a weight as `(K, N)`: rows times it are the node's results, bias left out."""
    if mac.node.op_type == "Conv":
        return np.asarray(weight.reshape(weight.shape[0], -1).T, dtype=np.float32)
    return np.asarray(weight.T if _turned(mac) else weight, dtype=np.float32)


def from_matrix(mac: MacNode, matrix: _Float32, shape: tuple[int, ...]) -> _Float32:
    """Return a `(K, N)` matrix in the weight's own shape: the inverse of `weight_matrix`."""
    if mac.node.op_type == "Conv":
        return np.ascontiguousarray(matrix.T).reshape(shape)
    return np.ascontiguousarray(matrix.T if _turned(mac) else matrix)


def _turned(mac: MacNode) -> bool:
    """Tell whether a product's weight is stored as `(N, K)`."""
    if mac.node.op_type == "Gemm":
        return bool(attribute(mac.node, "transB", 0)) if mac.weight == 1 else not attribute(mac.node, "transA", 0)
    return mac.weight != 1


class RowSamples:
    """Keeps rows of at most `_SAMPLES` samples: those whose content has the smallest checksums.

    So the choice depends on neither order nor batching, and that of two sets together follows from that of each.
    """

    def __init__(self, uses: Mapping[str, Sequence[Geometry]]) -> None:
        self.uses = {name: tuple(dict.fromkeys(wanted)) for name, wanted in uses.items()}
        self.slots: dict[int, int] = {}
        self._largest = 0
        self.kept: dict[tuple[str, Geometry], _Slots] = {}
        self.seen: dict[tuple[str, Geometry], int] = {}
        """How many rows there were in all, kept or not."""

    def wanted(self, feeds: Mapping[str, Array]) -> Wanted:
        """Return, of a batch, the samples to keep; what they displace is dropped."""
        found: dict[int, int] = {}
        for index in range(len(next(iter(feeds.values()))) if self.uses else 0):
            digest = 0
            for name in sorted(feeds):
                digest = zlib.crc32(np.ascontiguousarray(feeds[name][index]).data, digest)
            if digest in self.slots or (len(self.slots) == _SAMPLES and digest > self._largest):
                continue
            slot = len(self.slots)
            if slot == _SAMPLES:
                slot = self.slots.pop(self._largest)
                found.pop(self._largest, None)
                for kept in self.kept.values():
                    kept.count[slot] = 0
            self.slots[digest] = slot
            found[digest] = index
            self._largest = max(self.slots)
        return Wanted(found, [self.slots[digest] for digest in found])

    def add(self, name: str, array: Array, wanted: Wanted, size: int, kept: Array | None = None) -> None:
        """Keep rows of an activation of a batch of `size` samples; `kept` `(B, T)` is 0 where a token is padding."""
        for how in self.uses.get(name, ()):
            self.seen[name, how] = self.seen.get((name, how), 0) + _count(array, how)
            if not wanted.slots:
                continue
            found = _windows_of(array, how, wanted, size) if how.kernel else _tokens_of(array, how, wanted, size, kept)
            if found is None:
                continue
            rows, count = found
            if (name, how) not in self.kept:
                self.kept[name, how] = _Slots(math.prod(rows.shape[2:]))
            own = self.kept[name, how]
            own.rows.reshape(_SAMPLES, _ROWS, *rows.shape[2:])[wanted.slots, : rows.shape[1]] = rows
            own.count[wanted.slots] = count

    def rows(self, name: str, how: Geometry) -> _Float32:
        """Return the rows kept of a use, `(R, K)` float32, in the order of the checksums."""
        if (name, how) not in self.kept:
            return np.zeros((0, 0), dtype=np.float32)
        own = self.kept[name, how]
        order = [self.slots[digest] for digest in sorted(self.slots)]
        count = own.count[order]
        if (count >= _ROWS).all():
            return own.rows[order].reshape(-1, own.rows.shape[-1])
        return own.rows[order][np.arange(_ROWS) < count[:, None]]

    def checksums(self) -> list[int]:
        """Return the checksums of the samples kept, in order."""
        return sorted(self.slots)

    def stored(self) -> dict[tuple[str, Geometry], tuple[_Float32, _Int64]]:
        """Return of each use the samples' rows `(S, _ROWS, K)`, in the order of `checksums`, and how many count."""
        order = [self.slots[digest] for digest in self.checksums()]
        return {use: (own.rows[order], own.count[order]) for use, own in self.kept.items()}

    def like(
        self, checksums: Sequence[int], stored: Mapping[tuple[str, Geometry], tuple[_Float32, _Int64, int]]
    ) -> RowSamples:
        """Return rows for the same uses that hold what was `stored`, with how many rows each use had in all."""
        found = RowSamples(self.uses)
        found.slots = {int(digest): slot for slot, digest in enumerate(checksums)}
        found._largest = max(found.slots, default=0)
        for use, (rows, count, seen) in stored.items():
            own = found.kept[use] = _Slots(rows.shape[-1])
            own.rows[: len(rows)], own.count[: len(rows)] = rows, count
            found.seen[use] = seen
        return found

    def merge(self, other: RowSamples) -> None:
        """Take in what another set's pass kept."""
        chosen = sorted({*self.slots, *other.slots})[:_SAMPLES]
        merged: dict[tuple[str, Geometry], _Slots] = {}
        for part in (self, other):
            here = [(to, part.slots[digest]) for to, digest in enumerate(chosen) if digest in part.slots]
            to, own = [pair[0] for pair in here], [pair[1] for pair in here]
            for use, kept in part.kept.items():
                taken = merged.setdefault(use, _Slots(kept.rows.shape[-1]))
                taken.rows[to], taken.count[to] = kept.rows[own], kept.count[own]
        for use, count in other.seen.items():
            self.seen[use] = self.seen.get(use, 0) + count
        self.slots = {digest: slot for slot, digest in enumerate(chosen)}
        self._largest = max(chosen, default=0)
        self.kept = merged


class _Slots:
    """Rows of one use, `(_SAMPLES, _ROWS, K)`, and how many of each sample's count.

    One array for the whole pass: a copy for each sample costs more time than what it copies.
    """

    def __init__(self, width: int) -> None:
        self.rows: _Float32 = np.empty((_SAMPLES, _ROWS, width), dtype=np.float32)
        self.count = np.zeros(_SAMPLES, dtype=np.int64)


class Wanted:
    """Samples of a batch to keep, and where to look in each: worked out once for all values of the same sizes."""

    def __init__(self, found: Mapping[int, int], slots: Sequence[int]) -> None:
        """Take checksum -> place in the batch, and the slots; a checksum also says where to look in each quarter."""
        self.slots = list(slots)
        self.places = np.array(list(found.values()), dtype=np.int64)
        mixed = (np.array(list(found), dtype=np.uint64)[:, None] * _ODD[None, :]) % np.uint64(1 << 32)
        self._looks = (np.arange(_ROWS) + mixed / float(1 << 32)) / _ROWS
        self._tokens: dict[tuple[int, int], tuple[_Int64, _Int64]] = {}
        self._windows: dict[tuple[Geometry, tuple[int, ...], int], tuple[Any, Array | None]] = {}

    def tokens(self, length: int, kept: Array | None) -> tuple[_Int64, _Int64]:
        """Return the tokens to keep, `(n, _ROWS)`, and how many of them count: fewer where a sample has fewer."""
        key = (length, id(kept))
        if key not in self._tokens:
            count = np.full(len(self.places), length)
            order = np.arange(length)[None].repeat(len(self.places), axis=0)
            if kept is not None:
                own = kept[self.places] != 0
                count, order = own.sum(axis=1), np.argsort(~own, axis=1, kind="stable")
            few = np.minimum(np.arange(_ROWS), np.maximum(count[:, None] - 1, 0))
            chosen = np.where(count[:, None] < _ROWS, few, (self._looks * count[:, None]).astype(np.int64))
            self._tokens[key] = (np.take_along_axis(order, chosen, axis=1), np.minimum(count, _ROWS))
        return self._tokens[key]

    def windows(self, how: Geometry, sides: tuple[int, ...], images: int) -> tuple[Any, Array | None]:
        """Return the index of the windows in an activation, and which of their elements lie inside; None for all.

        `images` is how many a sample has along the first axis, as where several cameras share a backbone.
        """
        key = (how, sides, images)
        if key not in self._windows:
            self._windows[key] = self._find_windows(how, sides, images)
        return self._windows[key]

    def _find_windows(self, how: Geometry, sides: tuple[int, ...], images: int) -> tuple[Any, Array | None]:
        outs = [
            (side + how.pads[i] + how.pads[i + 2] - (how.kernel[i] - 1) * how.dilations[i] - 1) // how.strides[i] + 1
            for i, side in enumerate(sides)
        ]
        total = math.prod(outs) * images
        spots = (self._looks * total).astype(np.int64)
        if total < _ROWS:
            spots = np.arange(total)[None].repeat(len(self.places), axis=0)
        image = self.places[:, None] * images + spots // math.prod(outs)
        spots = spots % math.prod(outs)
        lines, inside = [], []
        for i, spot in enumerate((spots // outs[1], spots % outs[1])):
            line = (spot * how.strides[i] - how.pads[i])[:, :, None] + np.arange(how.kernel[i]) * how.dilations[i]
            inside.append((line >= 0) & (line < sides[i]))
            lines.append(np.clip(line, 0, sides[i] - 1))
        there = (inside[0][..., :, None] & inside[1][..., None, :])[..., None]
        index = (image[..., None, None], slice(None), lines[0][..., :, None], lines[1][..., None, :])
        return index, None if there.all() else there


def _count(array: Array, how: Geometry) -> int:
    """Return about how many rows an activation holds: a window for each of its places, whatever the strides."""
    width = array.shape[how.axis] if array.size else 1
    return array.size // (width * math.prod(how.strides))


def _tokens_of(
    array: Array, how: Geometry, wanted: Wanted, size: int, kept: Array | None
) -> tuple[_Float32, _Int64] | None:
    """Return `_ROWS` rows of each wanted sample and how many of them count: none where all of it is padding."""
    rows = array if how.axis in {-1, array.ndim - 1} else np.moveaxis(array, how.axis, -1)
    if not array.size or math.prod(rows.shape[:-1]) % size:
        return None
    rows = rows.reshape(size, -1, rows.shape[-1])
    masked = kept if kept is not None and kept.shape[1] == rows.shape[1] else None
    tokens, count = wanted.tokens(rows.shape[1], masked)
    return rows[wanted.places[:, None], tokens], count


def _windows_of(array: Array, how: Geometry, wanted: Wanted, size: int) -> tuple[_Float32, int] | None:
    """Return `_ROWS` windows `(C, height, width)` of each wanted sample, zeros beyond the border, and their number.

    None where the activation is not of the samples.
    """
    if not array.size or len(array) % size:
        return None
    index, there = wanted.windows(how, array.shape[2:], len(array) // size)
    # An index array on each side of a slice puts the slice's axis last.
    windows = array[index]
    if there is not None:
        windows *= there
    return np.moveaxis(windows, -1, 2), windows.shape[1]
