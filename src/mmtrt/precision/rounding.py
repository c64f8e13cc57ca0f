"""Weights rounded one after the other, so that what one loses the next make good.

Rounding to the nearest code is best for each weight alone. A layer's result is a sum: of its errors those count that
its real inputs don't cancel. So a column's weights are rounded in turn, those that meet the most energy first, and what
was lost goes into the weights not yet rounded, as the inputs' covariance says (Frantar et al. 2022, GPTQ,
arXiv:2210.17323, section 3). The covariance is that of the INT8 inputs, so rounding noise takes part in it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mmtrt.precision.judging import held_out, picked, power, rounding_error
from mmtrt.precision.scales import LEVELS, quantize
from mmtrt.tensors import Array

__all__ = ["rounded"]

_Float32 = npt.NDArray[np.float32]
_Float64 = npt.NDArray[np.float64]
_RIDGES = (16.0, 128.0)
"""What directions that the rows don't show may hold, in units of the inputs' rounding noise."""
_LEAST = 1e-5
"""A ridge is at least this share of the mean energy: a covariance of few rows is singular."""
_BLOCK = 32
_ROWS_BLOCK = 16
_COLUMNS = 32
_LARGEST = 640
"""More inputs than this can't be known from the rows that are kept, and cost their cube."""
_LEAST_ROWS = 64
_LEAST_SHARE = 0.8
"""Rows for each input; with fewer, what is gained on them is not gained on others."""


def rounded(rows: _Float32, weight: _Float32, scale: Array, amax: float, *, corrected: bool) -> Array | None:
    """Return int8 codes `(K, N)` for a weight `(K, N)` at these scales `(N,)`; None where nearest ones are as good.

    `rows` `(R, K)` are inputs of the layer, `amax` is their threshold; with `corrected` the bias takes back what is
    lost on average. Rows that were left out judge.
    """
    inputs = weight.shape[0]
    if inputs > _LARGEST or len(rows) < max(_LEAST_ROWS, _LEAST_SHARE * inputs):
        return None
    error = rounding_error(rows, amax)
    taken, noise = rows + error, power(error) / error.size
    held = held_out(len(taken), _ROWS_BLOCK)
    fit, judging = taken[~held], taken[held]
    columns = picked(weight, _COLUMNS)
    few, step = weight[:, columns], scale[columns]

    def lost(codes: Array) -> float:
        error = judging @ (codes * step - few).astype(np.float32)
        return power(error - error.mean(axis=0)) if corrected else power(error)

    energy = _covariance(fit, corrected=corrected)
    found = {ridge: lost(_in_turn(energy, few, step, ridge * noise)) for ridge in _RIDGES}
    ridge = min(found, key=lambda each: found[each])
    if found[ridge] >= lost(quantize(few, step, 1)):
        return None
    return _in_turn(_covariance(taken, corrected=corrected), weight, scale, ridge * noise)


def _covariance(rows: _Float32, *, corrected: bool) -> _Float64:
    exact = rows.astype(np.float64)
    if corrected:
        exact -= exact.mean(axis=0)
    return np.asarray(exact.T @ exact / len(exact))


def _in_turn(energy: _Float64, weight: _Float32, scale: Array, ridge: float) -> Array:
    """Return codes, rounded in the order of their inputs' energy."""
    inputs = len(energy)
    order = np.argsort(-np.diag(energy), kind="stable")
    matrix = energy[np.ix_(order, order)]
    matrix[np.diag_indices(inputs)] += max(ridge, _LEAST * float(np.trace(energy)) / inputs, 1e-30)
    inverse = np.linalg.inv(matrix)
    # Row i tells, per unit lost at i, what those after it should change: the Cholesky factor of the inverse.
    factor = np.linalg.cholesky((inverse + inverse.T) / 2).T
    passed = factor / np.diag(factor)[:, None]
    left = weight[order].astype(np.float64)
    codes = np.empty(left.shape, dtype=np.int8)
    for first in range(0, inputs, _BLOCK):
        last = min(first + _BLOCK, inputs)
        lost = np.empty((last - first, left.shape[1]))
        for i in range(first, last):
            code = np.clip(np.rint(left[i] / scale), -LEVELS, LEVELS)
            codes[order[i]] = code
            lost[i - first] = left[i] - code * scale
            left[i + 1 : last] -= np.outer(passed[i, i + 1 : last], lost[i - first])
        left[last:] -= passed[first:last, last:].T @ lost
    return codes
