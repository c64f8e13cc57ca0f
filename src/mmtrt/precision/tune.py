"""Thresholds, weights and biases that lose least of what each layer computes, judged on rows of its real inputs.

1. `auto` thresholds: of what the methods propose, and of a line search around the best, the one under which the
   results of all layers that read the value change least. A histogram can't tell: clipping moves many results
   the same way, rounding moves them here and there.
2. Compensated weights: the input's rounding noise is white, the input itself is not. A weight that is shrunk where
   the input has less energy than the noise passes less of it: W' = (C + s I)^-1 C W, C the rows' covariance and s the
   noise's variance (ridge regression with errors in variables; Hastie, Tibshirani, Friedman 2009, 3.4.1).
3. Rounded weights: a layer's weights are rounded so that their errors cancel in its results, see `rounding.py`.
4. Bias correction: what is lost on average goes into the bias (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Everything follows from one pass over the calibration set.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from threadpoolctl import threadpool_limits

from mmtrt.machine import available_cores
from mmtrt.metrics.histogram import Histogram
from mmtrt.precision.balance import Balance, balance, widened
from mmtrt.precision.graph import MacNode, constant
from mmtrt.precision.judging import beyond, chance, enough, held_out, power, rounding_error, sketched
from mmtrt.precision.observe import Observed
from mmtrt.precision.plan import Plan
from mmtrt.precision.qdq import channels, has_bias, quantised_weight
from mmtrt.precision.rounding import rounded
from mmtrt.precision.rows import Geometry, from_matrix, geometry, pads, repeat, weight_matrix
from mmtrt.precision.scales import dequantized
from mmtrt.precision.thresholds import METHODS, threshold
from mmtrt.tensors import Array

__all__ = ["Layer", "Threshold", "Tuned", "bias_shift", "choose", "compensated", "reading", "tune"]

_Float32 = npt.NDArray[np.float32]
_AROUND = (0.7, 0.8, 0.9, 1.12, 1.25, 1.45)
_SKETCH = 64
_RIDGES = (0.0, 2.0, 16.0, 128.0)
_BLOCK = 16
_LEAST_ROWS = 8 * _BLOCK
"""Fewer rows than this can't both fit and judge."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One use of a value: rows `(R, K)` of it and the weight `(K, N)` that they meet."""

    rows: _Float32
    weight: _Float32
    seen: int = 0
    """How many rows the whole set had."""

    @cached_property
    def sketch(self) -> _Float32:
        """The weight seen from _SKETCH random directions: squared norms of results are kept on average."""
        return sketched(self.weight, _SKETCH)

    @cached_property
    def judging(self) -> _Float32:
        """The first rows judge thresholds: those of whole samples, so that all parts of them have a say."""
        return self.rows[: enough(self.weight.shape[0])]

    @cached_property
    def extreme(self) -> _Float32:
        """A row beyond all those seen, see `judging.beyond`."""
        return beyond(self.rows, self.seen) if self.rows.size else self.judging

    @cached_property
    def signal(self) -> float:
        """The squared norm of the judging rows' results."""
        return max(power(self.judging @ self.sketch) if self.judging.size else 0.0, 1e-30)

    def noise(self, amax: float) -> float:
        """Return the power that INT8 inputs with this threshold add to the results, relative to their own."""
        lost = power(rounding_error(self.judging, amax) @ self.sketch)
        lost += chance(len(self.judging), self.seen) * power(rounding_error(self.extreme, amax) @ self.sketch)
        return lost / self.signal


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold, the method that proposed it, and the noise that it brings into the layers' results, relative."""

    value: float
    method: str
    noise: float | None = None


@dataclass(frozen=True, slots=True)
class Tuned:
    """Thresholds and balances by value name, codes and scales of changed weights by node, and what to add to biases."""

    chosen: dict[str, Threshold]
    balances: dict[str, Balance]
    weights: dict[ir.Node, tuple[Array, Array]]
    biases: dict[MacNode, Array]

    @property
    def amax(self) -> dict[str, float]:
        """Thresholds alone."""
        return {name: found.value for name, found in self.chosen.items()}


def reading(plan: Plan) -> dict[str, list[Geometry]]:
    """Return how the planned nodes read each value: what `observe` keeps rows by."""
    uses: dict[str, list[Geometry]] = {}
    for mac in plan.nodes:
        how = geometry(mac)
        if how is not None:
            uses.setdefault(_input_name(mac), []).append(how)
    return uses


def tune(
    plan: Plan, seen: Observed, method: str, refine: Collection[str], known: dict[object, Tuned] | None = None
) -> Tuned:
    """Choose a threshold for each value of the plan, then change weights and biases as `refine` says.

    `known` remembers what was found for a value and those who read it, from one plan of a model to the next.
    """
    tuner = _Tuner(plan, seen, method, refine, {} if known is None else known)
    # One value a thread at a time: numpy holds no lock while it computes, and few rows and weights are copied. Its
    # matrix products keep to their thread: others that wait for them would spin on the cores.
    with threadpool_limits(1), ThreadPoolExecutor(available_cores()) as pool:
        parts = list(pool.map(tuner.value, plan.values()))
    return Tuned(
        chosen={name: found for part in parts for name, found in part.chosen.items()},
        balances={name: found for part in parts for name, found in part.balances.items()},
        weights={node: made for part in parts for node, made in part.weights.items()},
        biases={mac: shift for part in parts for mac, shift in part.biases.items()},
    )


class _Tuner:
    """Tunes what reads a value, one value at a time."""

    def __init__(
        self, plan: Plan, seen: Observed, method: str, refine: Collection[str], known: dict[object, Tuned]
    ) -> None:
        self._known = known
        self._takers: dict[str, list[object]] = {}
        for mac in plan.nodes:
            for index in mac.activations:
                self._takers.setdefault(_name(mac.node.inputs[index]), []).append((mac.name, index))
        for node, index in plan.residuals:
            self._takers.setdefault(_name(node.inputs[index]), []).append((node.name, index))
        self._plan = plan
        self._seen = seen
        self._method = method
        self._refine = refine
        self._readers: dict[str, list[MacNode]] = {}
        self._read: dict[str | None, set[str]] = {}
        for mac in plan.nodes:
            if geometry(mac) is not None:
                self._readers.setdefault(_input_name(mac), []).append(mac)
            if mac.weight is not None:
                self._read.setdefault(_weight(mac).name, set()).add(_input_name(mac))

    def value(self, name: str) -> Tuned:
        """Return what is chosen for a value and for those who read it."""
        key = (name, *self._takers.get(name, ()), *(self._shared(mac) for mac in self._readers.get(name, ())))
        if key not in self._known:
            self._known[key] = self._value(name)
        return self._known[key]

    def _value(self, name: str) -> Tuned:
        balances: dict[str, Balance] = {}
        biases: dict[MacNode, Array] = {}
        judged = self._method == "auto" or self._refine
        layers = {mac: _layer(mac, self._seen, name) for mac in self._readers.get(name, ())} if judged else {}
        # What a balanced value reaches is known from its rows alone; `max` promises the maximum over all.
        evened = "balance" in self._refine and self._method != "max"
        evened = evened and not any(map(self._shared, layers))
        found = _balanced(self._plan, name, layers, corrected="bias" in self._refine) if evened else None
        if found is not None:
            balances[name] = found
            if found.shift.any():
                biases = {mac: widened(found, repeat(mac)).bias(layer.weight) for mac, layer in layers.items()}
            layers = {mac: _through(widened(found, repeat(mac)), layer) for mac, layer in layers.items()}
        if found is not None and found.amax is not None:
            chosen = Threshold(found.amax, "all codes")
        else:
            histogram = self._seen.histograms[name] if found is None else _of_rows(layers.values())
            chosen = choose(histogram, self._method, list(layers.values()))
        refined = [(mac, layer) for mac, layer in layers.items() if layer.rows.size and not self._shared(mac)]
        weights = {mac.node: self._stored(mac, layer, chosen.value) for mac, layer in refined}
        for mac, layer in refined:
            if "bias" in self._refine and has_bias(mac):
                stored = weight_matrix(mac, dequantized(*weights[mac.node], mac.channel_axis))
                biases[mac] = biases.get(mac, np.float32(0)) + bias_shift(layer, chosen.value, stored)
        return Tuned({name: chosen}, balances, weights, biases)

    def _stored(self, mac: MacNode, layer: Layer, amax: float) -> tuple[Array, Array]:
        weight = compensated(layer, amax) if "compensate" in self._refine else layer.weight
        codes, scale = quantised_weight(mac, from_matrix(mac, weight, _array(mac).shape))
        if "round" not in self._refine or amax <= 0:
            return codes, scale
        corrected = "bias" in self._refine and has_bias(mac)
        found = rounded(layer.rows, weight, scale, amax, corrected=corrected)
        return codes if found is None else from_matrix(mac, found, codes.shape), scale

    def _shared(self, mac: MacNode) -> bool:
        """Tell whether a node's weight meets several values: what suits one of them does not suit the others."""
        return len(self._read[_weight(mac).name]) > 1


def _balanced(plan: Plan, name: str, layers: Mapping[MacNode, Layer], *, corrected: bool) -> Balance | None:
    """Return a value's balance; None where one of those who take its INT8 codes could not take it back."""
    takers = [mac.node for mac in plan.nodes for i in mac.activations if _named(mac.node.inputs[i], name)]
    takers += [node for node, i in plan.residuals if _named(node.inputs[i], name)]
    if not layers or len(takers) != len(layers) or any(not layer.rows.size for layer in layers.values()):
        return None
    if len({channels(mac) for mac in layers}) > 1:
        return None
    # A border of zeros is none of shifted values: it is padded before they are shifted, where that is allowed.
    borders = {pads(mac) if any(pads(mac)) else () for mac in layers}
    shifts = all(map(has_bias, layers)) and (borders == {()} or (plan.pads and len(borders) == 1))
    uses = [(layer.rows, layer.weight, layer.seen) for layer in layers.values()]
    return balance(uses, [repeat(mac) for mac in layers], shifts=shifts, corrected=corrected)


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""


def _named(value: ir.Value | None, name: str) -> bool:
    return value is not None and value.name == name


def _through(found: Balance, layer: Layer) -> Layer:
    return Layer(rows=found.rows(layer.rows), weight=found.weight(layer.weight), seen=layer.seen)


def _of_rows(layers: Iterable[Layer]) -> Histogram:
    """Return the histogram of balanced rows: the set itself was seen unbalanced."""
    histogram = Histogram()
    for layer in layers:
        histogram.add(layer.rows)
    return histogram


def _layer(mac: MacNode, seen: Observed, name: str) -> Layer:
    how = geometry(mac)
    assert how is not None  # noqa: S101 -- only nodes with a geometry get here
    rows = seen.rows
    return Layer(rows=rows.rows(name, how), weight=weight_matrix(mac, _array(mac)), seen=rows.seen.get((name, how), 0))


def _array(mac: MacNode) -> Array:
    array = constant(_weight(mac))
    assert array is not None  # noqa: S101 -- a weighted node's weight is a constant
    return array


def _input_name(mac: MacNode) -> str:
    return _name(mac.node.inputs[mac.activations[0]])


def _weight(mac: MacNode) -> ir.Value:
    value = mac.node.inputs[mac.weight] if mac.weight is not None else None
    assert value is not None  # noqa: S101 -- asked of weighted nodes only
    return value


def choose(histogram: Histogram, method: str, layers: Sequence[Layer]) -> Threshold:
    """Return the threshold of a value by a method, or, for `auto`, the one that its layers lose least with."""
    if method != "auto":
        return Threshold(threshold(histogram, method), method)
    judges = [layer for layer in layers if layer.rows.size]
    if not judges or histogram.amax == 0:
        return Threshold(threshold(histogram, "mse"), "mse")
    proposed = {name: threshold(histogram, name) for name in METHODS}
    noise = {name: _noise(value, judges) for name, value in proposed.items() if value > 0}
    best = min(noise, key=lambda name: noise[name])
    found = Threshold(proposed[best], best, noise[best])
    for factor in _AROUND:
        value = proposed[best] * factor  # also beyond what was seen: new data goes there
        lost = _noise(value, judges)
        if lost < (found.noise or 0.0):
            found = Threshold(value, best, lost)
    return found


def _noise(amax: float, layers: Sequence[Layer]) -> float:
    """Mean over the layers of the power that INT8 inputs add to the results, relative to the results' own."""
    return sum(one.noise(amax) for one in layers) / len(layers)


def compensated(layer: Layer, amax: float) -> _Float32:
    """Return the weight that passes least of the input's INT8 noise, `(K, N)`; as it was where that gains nothing.

    The covariance is known from the rows alone. Directions that they don't show get an assumed energy of so many
    times the noise's, chosen, like whether to change anything, by rows that were left out.
    """
    rows = layer.rows
    if len(rows) < _LEAST_ROWS or amax <= 0:
        return layer.weight
    judge = held_out(len(rows), _BLOCK)
    noise = power(rounding_error(rows, amax)) / rows.size
    if noise <= 0:
        return layer.weight
    fit, judging = _Filter(rows[~judge], noise), rows[judge]
    changes = {ridge: fit.change(layer.sketch, ridge) for ridge in _RIDGES}
    expected = {ridge: _expected(judging, layer.sketch, change, noise) for ridge, change in changes.items()}
    ridge = min(expected, key=lambda r: expected[r])
    if expected[ridge] >= _expected(judging, layer.sketch, np.zeros_like(layer.sketch), noise):
        return layer.weight
    return layer.weight + _Filter(rows, noise).change(layer.weight, ridge)


def _expected(judging: _Float32, sketch: _Float32, change: _Float32, noise: float) -> float:
    """Return the expected squared error of the judging rows' results: what is bent, and what noise passes."""
    return power(judging @ change) + len(judging) * noise * power(sketch + change)


class _Filter:
    """What rows `(R, K)` under white noise of a variance make of a weight."""

    def __init__(self, rows: _Float32, noise: float) -> None:
        self._rows = rows
        self._noise = noise
        # In double: the rows' energy is 10,000 times the noise's and more.
        self._gram = (rows @ rows.T).astype(np.float64)

    def change(self, weight: _Float32, ridge: float) -> _Float32:
        """Return W' - W for a covariance of C = rows' rows / R + ridge * noise * I, by the R x R system (Woodbury)."""
        gram = self._gram.copy()
        gram[np.diag_indices(len(gram))] += len(gram) * self._noise * (1 + ridge)
        solved = np.linalg.solve(gram, (self._rows @ weight).astype(np.float64))
        seen = self._rows.T @ solved.astype(np.float32)
        return np.asarray((seen - weight) / np.float32(1 + ridge), dtype=np.float32)


def bias_shift(layer: Layer, amax: float, stored: _Float32) -> _Float32:
    """Return what to add to the bias, `(N,)`: the mean of what INT8 inputs and the stored weight lose."""
    mean = layer.rows.mean(axis=0)
    taken = mean + rounding_error(layer.rows, amax).mean(axis=0)
    return np.asarray(mean @ layer.weight - taken @ stored, dtype=np.float32)
