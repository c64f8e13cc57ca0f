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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mmtrt.precision.judging import beyond, chance, enough, held_out, picked, power, rounding_error
from mmtrt.precision.scales import int8_scale

__all__ = ["Balance", "balance", "widened"]

_Float32 = npt.NDArray[np.float32]
_POWERS = (0.0, 0.25, 0.5, 0.75)
_CLIPS = (1.0, 0.75)
_TOPS = (1.3, 1.0, 0.85, 0.7, 0.6, 0.5)
_ONE_SIDED = 0.5
"""A value is one-sided where it goes at most so far below 0, beside how far it goes above."""
_JUDGE_ONE_IN = 2
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
    if len(channels) != 1:
        return None
    fit, judged = [], []
    for rows, weight, seen in uses:
        held = held_out(len(rows), _BLOCK, _JUDGE_ONE_IN)
        if held.all():
            return None
        fit.append(rows[~held])
        reach = np.sqrt(np.square(rows).mean(axis=0))
        judging = rows[held][: enough(rows.shape[1])]
        new = _Rows(judging, beyond(rows, seen, reach), chance(len(judging), seen), weight[:, picked(weight, _COLUMNS)])
        judged.append(new)
    count = channels.pop()
    strength = np.max([np.abs(weight.reshape(count, -1)).max(axis=1) for _, weight, _ in uses], axis=0)
    way = _best_way(_Shown(fit, repeats, strength), _Noise(judged, repeats, corrected=corrected), shifts=shifts)
    # What to do is settled by rows that were left out; how far a value goes is known best from all of them.
    return None if way == _PLAIN else _Shown([rows for rows, _, _ in uses], repeats, strength).balanced(way)


@dataclass(frozen=True, slots=True)
class _Way:
    """What is done to a value: where its zero goes, and how far its channels' ranges are evened out.

    `top` is set where all codes are spent on a value that lies on one side of 0: how much of that side they reach.
    """

    zero: str = "none"
    power: float = 0.0
    top: float | None = None


_PLAIN = _Way()


def _best_way(shown: _Shown, noise: _Noise, *, shifts: bool) -> _Way:
    """Return the way to balance that loses least; one way is looked at after the other, not all together."""
    lost = {_PLAIN: noise.of(shown.balanced(_PLAIN))}

    def best_of(ways: Iterable[_Way]) -> _Way:
        ways = list(ways)
        for way in ways:
            if way not in lost:
                lost[way] = noise.of(shown.balanced(way))
        return min(ways, key=lambda way: lost[way])

    plain = best_of(_Way("none", power) for power in _POWERS)
    if shifts:
        # How far to even out hardly depends on which of the two is taken for the zero.
        mean = best_of(_Way("mean", power) for power in _POWERS)
        best_of(_Way("middle", power) for power in (0.0, mean.power))
        if shown.one_sided(plain):
            best_of(replace(plain, top=top) for top in _TOPS)
    return min(lost, key=lambda way: lost[way])


class _Shown:
    """Rows of a value as its layers have them, and the balances that follow from them."""

    def __init__(self, rows: Sequence[_Float32], repeats: Sequence[int], strength: _Float32) -> None:
        self._rows = [each.reshape(len(each), -1, n) for each, n in zip(rows, repeats, strict=True)]
        self._strength = strength

    def balanced(self, way: _Way) -> Balance:
        """Return what these rows make of a way.

        The lower end of a one-sided value becomes the code -127; where that end is 0, as behind a ReLU, 0 stays exact.
        """
        shift = self._zeros[way.zero]
        scale = _scale(self._reaches[way.zero], self._strength, way.power)
        if way.top is None:
            return Balance(scale=scale, shift=shift)
        low, high = self._ends(scale)
        limit = max((high - low) * way.top / 2, 1e-30)
        return Balance(scale=scale, shift=scale * np.float32(low + limit), amax=limit)

    def one_sided(self, way: _Way) -> bool:
        """Tell whether a value lies mostly on the upper side of 0."""
        low, high = self._ends(_scale(self._reaches[way.zero], self._strength, way.power))
        return high > low >= -_ONE_SIDED * high

    def _ends(self, scale: _Float32) -> tuple[float, float]:
        low = min(float((low / scale).min()) for low, _ in self._spans)
        return low, max(float((high / scale).max()) for _, high in self._spans)

    @cached_property
    def _spans(self) -> list[tuple[_Float32, _Float32]]:
        return [(each.min(axis=(0, 2)), each.max(axis=(0, 2))) for each in self._rows]

    @cached_property
    def _zeros(self) -> dict[str, _Float32]:
        """What may be taken for a channel's zero: nothing, its mean, the middle of its range."""
        mean = np.mean([each.mean(axis=(0, 2)) for each in self._rows], axis=0)
        low, high = (np.min([low for low, _ in self._spans], axis=0), np.max([high for _, high in self._spans], axis=0))
        told = {"none": np.zeros_like(mean), "mean": mean, "middle": (low + high) / 2}
        return {name: np.asarray(zero, dtype=np.float32) for name, zero in told.items()}

    @cached_property
    def _reaches(self) -> dict[str, _Float32]:
        """The root mean square of each channel around each zero: a maximum of few rows is too small for new data."""
        squares = [np.square(each, dtype=np.float64).mean(axis=(0, 2)) for each in self._rows]
        means = [each.mean(axis=(0, 2), dtype=np.float64) for each in self._rows]
        return {
            name: np.asarray(
                np.sqrt(
                    np.max(
                        [np.maximum(s - 2 * zero * m + zero * zero, 0) for s, m in zip(squares, means, strict=True)],
                        axis=0,
                    )
                ),
                dtype=np.float32,
            )
            for name, zero in ((name, zero.astype(np.float64)) for name, zero in self._zeros.items())
        }


def widened(found: Balance, repeat: int) -> Balance:
    """Return a balance for a layer whose rows hold each channel so many times."""
    return replace(found, repeat=repeat)


def _scale(reach: _Float32, strength: _Float32, power: float) -> _Float32:
    """Return reach^power / strength^(1 - power) for a power above 0, as large as 1 on geometric average."""
    if power == 0 or reach.max() <= 0:
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
