"""Channels of an activation brought to one range before it is quantised: x' = (x - shift) / scale, channel by channel.

One INT8 step has to serve all channels of a tensor. Where they differ in range or sit off zero, most of its codes are
wasted: after GELU or ReLU half of them at once. What lies on one side gets all of them by a shift that takes its lower
end to the code -127, as an unsigned type would have it. The layers that read it take it back: W' = scale * W and
b' = b + shift W, so nothing changes but the rounding. How far the ranges are evened out, at the cost of the weights'
own, is chosen by what the layers' results lose (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438, eq. 4; the shift as in
Outlier Suppression+, Wei et al. 2023, arXiv:2304.09145).

Behind a LayerNormalization that nobody else reads it costs nothing; elsewhere it is one multiply and one add in the
pointwise kernel that quantises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mmtrt.precision.judging import beyond, chance, held_out, picked, power, rounding_error
from mmtrt.precision.scales import int8_scale

__all__ = ["Balance", "balance", "widened"]

_Float32 = npt.NDArray[np.float32]
_POWERS = (0.0, 0.25, 0.5, 0.75)
_CLIPS = (1.0, 0.8, 0.6)
_TOPS = (1.3, 1.0, 0.85, 0.7, 0.6, 0.5)
_ONE_SIDED = 0.5
"""A value is one-sided where it goes at most so far below 0, beside how far it goes above."""
_EVENED = 1
"""Of the ways to even out ranges, so many of the best are tried with all codes."""
_JUDGING = 128
_BLOCK = 8
_COLUMNS = 64
"""Columns of each weight that judge, whatever its size."""
_LEAST = 1e-3
"""A channel's range counts as at least this share of the largest: a dead one must not be blown up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """`scale` and `shift` of each channel, `(C,)` float32; a row that is a window holds a channel `repeat` times.

    `amax` is the threshold that belongs to the shift, None where it is to be chosen.
    """

    scale: _Float32
    shift: _Float32
    repeat: int = 1
    amax: float | None = None

    def rows(self, rows: _Float32) -> _Float32:
        """Return balanced rows, `(R, C * repeat)`."""
        return np.asarray((rows - self._wide(self.shift)) / self._wide(self.scale), dtype=np.float32)

    def weight(self, weight: _Float32) -> _Float32:
        """Return the weight `(C * repeat, N)` that gives the same results from balanced rows, but for `bias`."""
        return np.asarray(weight * self._wide(self.scale)[:, None], dtype=np.float32)

    def bias(self, weight: _Float32) -> _Float32:
        """Return what the shift takes from the results, `(N,)`: it goes into the bias."""
        return np.asarray(self._wide(self.shift) @ weight, dtype=np.float32)

    def _wide(self, channels: _Float32) -> _Float32:
        return np.repeat(channels, self.repeat)


def balance(
    uses: Sequence[tuple[_Float32, _Float32, int]],
    repeats: Sequence[int],
    *,
    shifts: bool,
    corrected: bool = False,
) -> Balance | None:
    """Return the balance of a value that loses least, None where that is none at all.

    `uses` holds rows `(R, C * repeat)`, the weight `(C * repeat, N)` and how many rows were seen for each layer that
    reads the value; all take the same balance, `repeat` aside. Without `shifts` only ranges are evened out, as where
    a border is padded with zeros. `corrected` says that a bias takes back what is lost on average.
    """
    channels = {weight.shape[0] // repeat for (_, weight, _), repeat in zip(uses, repeats, strict=True)}
    if len(channels) != 1 or not all(len(rows) for rows, _, _ in uses):
        return None
    fit, judged = [], []
    for rows, weight, seen in uses:
        held = held_out(len(rows), _BLOCK)
        fit.append(rows[~held])
        reach = np.sqrt(np.square(rows).mean(axis=0))
        judging = rows[held][:_JUDGING]
        new = _Rows(judging, beyond(rows, seen, reach), chance(len(judging), seen), weight[:, picked(weight, _COLUMNS)])
        judged.append(new)
    if not all(len(rows) for rows in fit):
        return None
    shown = [rows.reshape(len(rows), -1, n) for rows, n in zip(fit, repeats, strict=True)]
    strength = np.max([np.abs(w.reshape(len(shown[0][0]), -1)).max(axis=1) for _, w, _ in uses], axis=0)
    none = Balance(scale=np.ones(len(strength), np.float32), shift=np.zeros(len(strength), np.float32))
    noise = _Noise(judged, repeats, corrected=corrected)
    found = [(noise.of(none), none)]
    for shift in _shifts(shown) if shifts else [none.shift]:
        reach = _reach(shown, shift)
        if reach.max() > 0:
            tried = [Balance(scale=_scale(reach, strength, power), shift=shift) for power in _POWERS]
            found += [(noise.of(one), one) for one in tried]
    if shifts:
        plain = sorted((each for each in found if not each[1].shift.any()), key=lambda each: each[0])
        tried = [one for _, even in plain[:_EVENED] for one in _all_codes(even, shown)]
        found += [(noise.of(one), one) for one in tried]
    best = min(range(len(found)), key=lambda i: found[i][0])
    return found[best][1] if best else None


def _all_codes(even: Balance, rows: list[_Float32]) -> list[Balance]:
    """Return balances that spend all codes on a value that lies mostly on one side of 0.

    Its lower end becomes the code -127; where that end is 0, as behind a ReLU, 0 stays exact.
    """
    top = max(float((r / even.scale[None, :, None]).max()) for r in rows)
    low = min(float((r / even.scale[None, :, None]).min()) for r in rows)
    if low < -_ONE_SIDED * top:
        return []
    limits = [(top - low) * clip / 2 for clip in _TOPS]
    return [
        Balance(scale=even.scale, shift=even.scale * np.float32(low + limit), amax=limit) for limit in limits if limit
    ]


def widened(found: Balance, repeat: int) -> Balance:
    """Return a balance for a layer whose rows hold each channel so many times."""
    return replace(found, repeat=repeat)


def _shifts(rows: list[_Float32]) -> list[_Float32]:
    """Return what may be taken for a channel's zero: nothing, its mean, the middle of its range."""
    mean = np.mean([r.mean(axis=(0, 2)) for r in rows], axis=0)
    low = np.min([r.min(axis=(0, 2)) for r in rows], axis=0)
    high = np.max([r.max(axis=(0, 2)) for r in rows], axis=0)
    return [np.asarray(one, dtype=np.float32) for one in (np.zeros_like(mean), mean, (low + high) / 2)]


def _reach(rows: list[_Float32], shift: _Float32) -> _Float32:
    """Return the root mean square of each channel: a maximum over a few hundred rows is too small for new data."""
    squares = [np.square(r - shift[None, :, None], dtype=np.float64).mean(axis=(0, 2)) for r in rows]
    return np.asarray(np.sqrt(np.max(squares, axis=0)), dtype=np.float32)


def _scale(reach: _Float32, strength: _Float32, power: float) -> _Float32:
    """Return reach^power / strength^(1 - power) for a power above 0, as large as 1 on geometric average."""
    if power == 0:
        return np.ones_like(reach)
    reach, strength = (np.maximum(each, _LEAST * max(float(each.max()), 1e-30)) for each in (reach, strength))
    scale = reach**power / strength ** (1 - power)
    return np.asarray(scale / np.exp(np.log(scale).mean()), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that judge, one beyond them with its weight, and the columns of the weight that they meet."""

    rows: _Float32
    extreme: _Float32
    chance: float
    weight: _Float32


class _Noise:
    """What INT8 inputs and weights add to the results of the layers that read a value, relative to their power."""

    def __init__(self, uses: Sequence[_Rows], repeats: Sequence[int], *, corrected: bool) -> None:
        self._uses = list(zip(uses, repeats, strict=True))
        self._signals = [max(power(use.rows @ use.weight), 1e-30) for use in uses]
        self._corrected = corrected

    def of(self, one: Balance) -> float:
        """Return the sum over the layers, each at the best of some ranges where the balance tells none."""
        return sum(self._layer(one, *use) / signal for use, signal in zip(self._uses, self._signals, strict=True))

    def _layer(self, one: Balance, use: _Rows, repeat: int) -> float:
        wide = widened(one, repeat)
        taken, extreme, stored = wide.rows(use.rows), wide.rows(use.extreme), wide.weight(use.weight)
        largest = float(np.abs(taken).max())
        limits = [largest * clip for clip in _CLIPS] if one.amax is None else [one.amax]
        inputs = min(
            self._power(rounding_error(taken, limit) @ stored)
            + use.chance * power(rounding_error(extreme, limit) @ stored)
            for limit in limits
        )
        step = int8_scale(np.abs(stored).max(axis=0))
        wrong = np.asarray(np.rint(stored / step) * step - stored, dtype=np.float32)
        return inputs + self._power(taken @ wrong)

    def _power(self, error: _Float32) -> float:
        return power(error - error.mean(axis=0)) if self._corrected else power(error)
