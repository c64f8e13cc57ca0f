"""What many times say: order statistics, noise, drift, and intervals that know that runs depend on each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "Spread",
    "block_length",
    "early_stopping",
    "mean_interval",
    "mean_ratio_interval",
    "percentile",
    "percentile_interval",
    "ratio_interval",
    "spread",
]

Floats = NDArray[np.float64]
Interval = tuple[float, float]
"""The two ends of a 95% interval."""

_SEED = 2004_09602
_MOST, _LEAST = 2000, 200
_DRAWS = 4e7
"""Times drawn in all: a minute of a fast model has a million of them, and fewer resamples do."""
_ENOUGH = 1 << 17
"""Rounds that an interval is told by: of more, every so many-th counts, which says less and nothing wrong."""


def percentile(times: ArrayLike, percent: int) -> float:
    """Return the smallest time that at least `percent` of all times do not exceed (nearest rank)."""
    ordered = np.sort(np.asarray(times, np.float64))
    return float(ordered[_rank(len(ordered), percent)])


def _rank(count: int, percent: int) -> int:
    return max(0, -(-count * percent // 100) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A distribution of times in ms; `cv` is standard deviation over mean, `drift` the second half's growth."""

    n: int
    p50: float
    p90: float
    p95: float
    p99: float
    mean: float
    min: float
    max: float
    cv: float
    drift: float
    drifted: bool
    """Whether the halves' medians differ by more than chance explains."""


def spread(times: ArrayLike) -> Spread:
    """Describe times in the order in which they were measured; ValueError where there are none, or one is not finite.

    Percentiles are order statistics (nearest rank).
    """
    series = np.asarray(times, np.float64)
    if not len(series) or not np.isfinite(series).all():
        raise ValueError(f"{len(series)} times, of which {int((~np.isfinite(series)).sum())} are not finite")
    ordered = np.sort(series)
    p50, p90, p95, p99 = (float(ordered[_rank(len(ordered), percent)]) for percent in (50, 90, 95, 99))
    mean = float(series.mean())
    first, second = series[: len(series) // 2], series[len(series) // 2 :]
    growth = percentile(second, 50) / percentile(first, 50) - 1 if len(first) and percentile(first, 50) > 0 else 0.0
    return Spread(
        n=len(series),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        mean=mean,
        min=float(ordered[0]),
        max=float(ordered[-1]),
        cv=float(series.std(ddof=1)) / mean if len(series) > 1 and mean > 0 else 0.0,
        drift=growth,
        drifted=_apart(first, second),
    )


def _apart(first: Floats, second: Floats) -> bool:
    """Tell whether the 95% intervals of two medians, by their order statistics, don't meet."""
    if min(len(first), len(second)) < 6:
        # Of five times not even smallest and largest enclose the median in 95 of 100 cases.
        return False
    (low, high), (later_low, later_high) = (_sign_interval(half) for half in (first, second))
    return later_low > high or later_high < low


def _sign_interval(times: Floats) -> Interval:
    """Return the median's interval by the sign test, in its normal approximation: for independent times."""
    count = len(times)
    below = max(0, math.floor(count / 2 - 1.96 * math.sqrt(count) / 2) - 1)
    ordered = np.sort(times)
    return float(ordered[below]), float(ordered[count - 1 - below])


# ------------------------------------------------------------------------------------------- the block bootstrap


def ratio_interval(times: ArrayLike, first: ArrayLike) -> Interval:
    """Return the 95% interval of `median(times) / median(first)`, of two that were measured in turn: `(rounds,)` each.

    A paired block bootstrap over rounds: what the machine does to a round meets both, and stays with them.
    """
    pair = np.stack([np.asarray(times, np.float64), np.asarray(first, np.float64)])
    medians = np.array(list(_resampled(pair)))
    return _ends(medians[:, 0] / medians[:, 1])


def percentile_interval(times: ArrayLike, percent: int = 50) -> Interval:
    """Return the 95% interval of a percentile of times `(rounds,)`, by a block bootstrap."""
    found = np.array(list(_resampled(np.asarray(times, np.float64)[None], percent)))
    return _ends(found[:, 0])


def _ends(values: Floats) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _resampled(table: Floats, percent: int = 50) -> Iterator[Floats]:
    """Yield a percentile of each row of resamples, `(rows,)`: columns of `table` `(rows, rounds)` in circular blocks.

    Politis and Romano 1992 (A circular block-resampling procedure). A round counts as often as it was drawn, so that
    each row is sorted but once.
    """
    table = table[:, :: -(-table.shape[1] // _ENOUGH)]
    rounds = table.shape[1]
    length = block_length(table)
    blocks = -(-rounds // length)
    order = np.argsort(table, axis=1, kind="stable")
    values = np.take_along_axis(table, order, axis=1)
    rng = np.random.default_rng(_SEED)
    for _ in range(int(np.clip(_DRAWS / rounds, _LEAST, _MOST))):
        counts = _drawn(rng, rounds, length, blocks)
        totals = np.cumsum(counts[order], axis=1)
        # The nearest rank of what was drawn, which is a little more than there are rounds.
        wanted = -(-totals[:, -1:] * percent // 100)
        yield values[np.arange(len(table)), np.argmax(totals >= wanted, axis=1)]


def _drawn(rng: np.random.Generator, rounds: int, length: int, blocks: int) -> NDArray[np.int64]:
    """How often each round is drawn, `(rounds,)`, in blocks that start anywhere and go on from the end at the start."""
    starts = np.bincount(rng.integers(0, rounds, blocks), minlength=rounds)
    if length == 1:
        return starts
    # A round is drawn by each block that started at it, or at one of the length - 1 rounds before it.
    sums: NDArray[np.int64] = np.cumsum(np.concatenate([[0], starts[-(length - 1) :], starts]))
    return sums[length:] - sums[:rounds]


def block_length(table: ArrayLike) -> int:
    """Return how many rounds in a row to draw together: as many as a round's effect on the medians lasts.

    `table` is `(rows, rounds)`, one or two rows. What decides where a median falls is whether a time is above it; of
    two rows it is the difference of that, and their ratio besides: a large noise that both meet hides one of each.
    """
    rows = np.asarray(table, np.float64)
    above = _above(rows)
    if len(rows) == 1:
        return _memory(above[0])
    return max(_memory(above[0] - above[1]), _memory(_above(rows[:1] / rows[1:])[0]))


def _above(rows: Floats) -> Floats:
    return (rows > np.median(rows, axis=1, keepdims=True)).astype(np.float64)


def _memory(series: Floats) -> int:
    """Return the best length of blocks for the mean of a series `(rounds,)` by the circular bootstrap.

    Politis and White 2004, with the correction of Patton, Politis and White 2009.
    """
    rounds = len(series)
    series = series - series.mean()
    if rounds < 8 or not series.any():
        return 1
    covariance = _autocovariance(series)
    correlation = np.abs(covariance / covariance[0])
    enough = max(5, math.ceil(math.sqrt(math.log10(rounds))))
    limit = 2 * math.sqrt(math.log10(rounds) / rounds)
    most = min(math.ceil(math.sqrt(rounds)) + enough, rounds - 1)
    small = correlation[1 : most + 1] < limit
    runs = np.convolve(small, np.ones(enough), "valid") == enough
    lags = int(np.argmax(runs)) if runs.any() else most - enough + 1
    window = min(2 * max(lags, 1), rounds - 1)
    at = np.arange(1, window + 1)
    weight = np.clip(2 * (1 - at / window), 0, 1)
    long_run = covariance[0] + 2 * float(weight @ covariance[1 : window + 1])
    slope = 2 * float((weight * at) @ covariance[1 : window + 1])
    if not long_run > 0:
        return 1
    length = (slope**2 / (2 / 3 * long_run**2)) ** (1 / 3) * rounds ** (1 / 3)
    return int(np.clip(round(length), 1, max(1, min(math.ceil(3 * math.sqrt(rounds)), rounds // 4))))


def _autocovariance(series: Floats) -> Floats:
    """Return the covariance of a centred series with itself, `(rounds,)`, by lag."""
    size = 1 << (2 * len(series) - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(series, size)) ** 2
    return np.fft.irfft(spectrum, size)[: len(series)] / len(series)


# ----------------------------------------------------------------------------------------------- other intervals

_T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's 97.5% points, of 1 to 15 degrees of freedom."""


def mean_interval(values: ArrayLike) -> Interval | None:
    """Return the 95% interval of the mean of a few positive values, by Student's t; None of fewer than 2."""
    found = np.asarray(values, np.float64)
    return _around(float(found.mean()), found / found.mean()) if len(found) > 1 else None


def mean_ratio_interval(values: ArrayLike, first: ArrayLike) -> Interval | None:
    """Return the 95% interval of `mean(values) / mean(first)`, of values that were taken in turn; None of fewer than 2.

    By what each pair adds to the ratio (the delta method).
    """
    mine, other = np.asarray(values, np.float64), np.asarray(first, np.float64)
    if len(mine) < 2:
        return None
    return _around(float(mine.mean() / other.mean()), mine / mine.mean() - other / other.mean())


def _around(centre: float, parts: Floats) -> Interval:
    """Return Student's interval of a positive number from the relative parts that it is the mean of."""
    freedom = len(parts) - 1
    point = _T_975[freedom - 1] if freedom <= len(_T_975) else 1.96 + 2.5 / freedom
    # In logarithms: it ends above 0 however noisy the parts are.
    half = point * float(parts.std(ddof=1)) / math.sqrt(len(parts))
    return centre * math.exp(-half), centre * math.exp(half)


def early_stopping(times: ArrayLike, percent: int) -> float | None:
    """Return MLPerf's early-stopping estimate of a percentile; None where there are too few times for one.

    The t-th largest time, t the most for which `P(Binomial(n, 1 - percent) <= t)` is at most 1%: the percentile is
    no larger, with 99% confidence (MLPerf Inference Rules, appendix on early stopping). 64 times are the least that
    tell p90, 662 that tell p99.
    """
    ordered = np.sort(np.asarray(times, np.float64))
    count, share = len(ordered), 1 - percent / 100
    if not count:
        return None
    log_odds = math.log(share) - math.log1p(-share)
    log_term = count * math.log1p(-share)
    total, found = 0.0, 0
    for above in range(count + 1):
        total += math.exp(log_term)
        if not total <= 0.01:
            break
        found = above
        log_term += math.log((count - above) / (above + 1)) + log_odds if above < count else 0.0
    return float(ordered[count - found]) if found else None
