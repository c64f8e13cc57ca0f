"""How large each value of a graph can get: seen in calibration where it was watched, else bounded from its inputs.

A bound is rigorous for inputs within the ranges seen: |W x| is at most the largest row sum of |W| times the
largest |x|, and so on. So FP16 needs few ranges beyond those that INT8 needs, and a value that no rule bounds
is watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from mmtrt.precision.graph import attribute, constant, is_float, weight_of
from mmtrt.tensors import Array

__all__ = ["Bounds"]

Rule = Callable[[ir.Node, "list[float]", "_Weights"], float]


class Bounds:
    """Bounds of a graph's values; its weights, which are many, are looked at once however often it is asked."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._weights = _Weights()

    def largest(self, seen: Mapping[str, float]) -> dict[str, float]:
        """Return the largest |value| of each float value by name; infinite where nothing bounds it."""
        return _sweep(self._model, self._weights, seen, unseen_input=math.inf, limit=math.inf)[0]

    def unbounded(self, seen: Mapping[str, float], limit: float) -> list[str]:
        """Return the values, in order, that may exceed `limit` and were not seen: what a pass must watch.

        Of a chain only its first value is returned, since the others are bounded once that one is seen. Inputs that
        were not seen count as 0, so that before any pass only what no rule bounds is returned.
        """
        return _sweep(self._model, self._weights, seen, unseen_input=0.0, limit=limit)[1]


class _Weights:
    """What rules ask of constants: the largest |element|, and the largest sum of |elements| along axes."""

    def __init__(self) -> None:
        self._told: dict[tuple[ir.Value, object], float] = {}

    def largest(self, value: ir.Value) -> float:
        """Return the largest |element|, 0 where the value is no number or not constant."""
        return self._once(value, None, _largest)

    def summed(self, value: ir.Value, axes: tuple[int, ...]) -> float | None:
        """Return the largest sum of |elements| along these axes; None where the value is not constant."""
        found = self._once(value, axes, lambda array: _sums(array, axes))
        return None if math.isnan(found) else found

    def _once(self, value: ir.Value, how: object, work: Callable[[Array | None], float]) -> float:
        if (value, how) not in self._told:
            self._told[value, how] = work(constant(value) if how is None else weight_of(value))
        return self._told[value, how]


def _sweep(
    model: ir.Model, weights: _Weights, seen: Mapping[str, float], *, unseen_input: float, limit: float
) -> tuple[dict[str, float], list[str]]:
    known = {value.name or "": weights.largest(value) for value in model.graph.initializers.values()}
    for value in model.graph.inputs:
        known[value.name or ""] = seen.get(value.name or "", unseen_input if is_float(value) else math.inf)
    beyond: list[str] = []
    for node in model.graph:
        given = [known.get(value.name or "", math.inf) if value is not None else 0.0 for value in node.inputs]
        for index, value in enumerate(node.outputs):
            name = value.name or ""
            if not is_float(value):
                continue
            rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} and index == 0 else None
            bound = rule(node, given, weights) if rule else math.inf
            # 0 times infinity is NaN, and means that nothing is known.
            bound = math.inf if math.isnan(bound) else bound
            if name in seen:
                bound = min(bound, seen[name])
            elif bound > limit or (bound == math.inf and limit < math.inf):
                beyond.append(name)
                bound = 1.0  # The pass that watches it will tell.
            known[name] = bound
    return known, beyond


def _largest(array: Array | None) -> float:
    if array is None or not array.size or array.dtype.kind not in "fiu":
        return 0.0
    return max(-float(array.min()), float(array.max()))


def _sums(array: Array | None, axes: tuple[int, ...]) -> float:
    if array is None or array.ndim <= max(axis if axis >= 0 else -axis - 1 for axis in axes):
        return math.nan
    return float(np.abs(array).sum(axis=axes, dtype=np.float64).max(initial=0.0))


def _row_sum(weights: _Weights, value: ir.Value | None, *axes: int) -> float | None:
    """Return the largest sum of |weight| over these axes, None where the operand is no constant with such axes."""
    return weights.summed(value, axes) if value is not None else None


def _bias(given: list[float]) -> float:
    return given[2] if len(given) > 2 else 0.0


def _conv(node: ir.Node, given: list[float], weights: _Weights) -> float:
    value = node.inputs[1]
    rank = len(value.shape) if value is not None and value.shape is not None else 4
    inner = tuple(range(2, rank))
    total = _row_sum(weights, value, 0 if node.op_type == "ConvTranspose" else 1, *inner)
    return math.inf if total is None else total * given[0] + _bias(given)


def _gemm(node: ir.Node, given: list[float], weights: _Weights) -> float:
    total = _row_sum(weights, node.inputs[1], 1 if attribute(node, "transB", 0) else 0)
    if total is None:
        return math.inf
    scale = {name: abs(float(a.value)) for name, a in node.attributes.items() if name in {"alpha", "beta"}}
    return total * given[0] * scale.get("alpha", 1.0) + _bias(given) * scale.get("beta", 1.0)


def _matmul(node: ir.Node, given: list[float], weights: _Weights) -> float:
    for index, axis in ((1, -2), (0, -1)):
        total = _row_sum(weights, node.inputs[index], axis)
        if total is not None and len(node.inputs[index].shape or ()) != 1:
            return total * given[1 - index]
    if _weighs(node.inputs[0]):
        return given[1]
    sizes = [
        value.shape[-1 - i]
        for i, value in enumerate(node.inputs[:2])
        if value is not None and value.shape and len(value.shape) > i
    ]
    size = next((s for s in sizes if isinstance(s, int)), None)
    return math.inf if size is None else size * given[0] * given[1]


def _weighs(value: ir.Value | None) -> bool:
    """Tell whether the rows of a value are of a softmax: what they weigh is a mean, no larger than its parts."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.op_type != "Softmax":
        return False
    return attribute(node, "axis", -1) in {-1, len(value.shape or ()) - 1}


def _layer_norm(node: ir.Node, given: list[float], _: _Weights) -> float:
    weight = constant(node.inputs[1])
    if weight is None:
        return math.inf
    # A normalised vector of n elements has norm sqrt(n), so no element exceeds it.
    return math.sqrt(weight.size) * given[1] + _bias(given)


def _divide(node: ir.Node, given: list[float], _: _Weights) -> float:
    array = constant(node.inputs[1])
    least = float(np.abs(array.astype(np.float64)).min()) if array is not None and array.size else 0.0
    return given[0] / least if least > 0 else math.inf


def _power(node: ir.Node, given: list[float], _: _Weights) -> float:
    array = constant(node.inputs[1])
    if array is None or array.size != 1 or float(array.reshape(())) < 0:
        return math.inf
    exponent = float(array.reshape(()))
    return given[0] ** exponent if given[0] > 1 and math.isfinite(given[0]) else (1.0 if given[0] <= 1 else math.inf)


def _cast(node: ir.Node, given: list[float], _: _Weights) -> float:
    source = node.inputs[0]
    return 1.0 if source is not None and source.dtype == ir.DataType.BOOL else given[0]


def _batch_norm(node: ir.Node, given: list[float], _: _Weights) -> float:
    scale, bias, mean, var = (constant(value) for value in node.inputs[1:5])
    if scale is None or bias is None or mean is None or var is None:
        return math.inf
    epsilon = float(node.attributes["epsilon"].value) if "epsilon" in node.attributes else 1e-5
    gain = np.abs(scale.astype(np.float64)) / np.sqrt(var.astype(np.float64) + epsilon)
    return float((gain * (given[0] + np.abs(mean)) + np.abs(bias)).max())


def _dequantize(node: ir.Node, *_: object) -> float:
    scale = constant(node.inputs[1])
    return 128 * _largest(scale) if scale is not None else math.inf


def _first(_: ir.Node, given: list[float], __: _Weights) -> float:
    return given[0]


def _largest_of(_: ir.Node, given: list[float], __: _Weights) -> float:
    return max(given)


def _one(*_: object) -> float:
    return 1.0


def _constant_value(node: ir.Node, *_: object) -> float:
    value = node.attributes.get("value")
    return _largest(value.as_tensor().numpy()) if value is not None else 0.0


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(
        (
            "Relu", "LeakyRelu", "Abs", "Neg", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten",
            "Slice", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "MaxPool", "AveragePool",
            "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin", "Dropout", "DepthToSpace",
            "SpaceToDepth", "Split", "Gelu", "Clip", "Trilu", "Resize",
        ),
        _first,
    ),
    **dict.fromkeys(("Sigmoid", "Tanh", "Erf", "Softmax", "HardSigmoid", "Sin", "Cos", "Sign"), _one),
    **dict.fromkeys(("Concat", "Max", "Min", "Pad"), _largest_of),
    "Add": lambda _, given, __: sum(given),
    "Sum": lambda _, given, __: sum(given),
    "Sub": lambda _, given, __: sum(given),
    "Mul": lambda _, given, __: given[0] * given[1],
    "Where": lambda _, given, __: max(given[1:]),
    "Sqrt": lambda _, given, __: math.sqrt(given[0]) if math.isfinite(given[0]) else math.inf,
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
    "Div": _divide,
    "Pow": _power,
    "DequantizeLinear": _dequantize,
    "Cast": _cast,
    "Constant": _constant_value,
    "ConstantOfShape": _constant_value,
}  # fmt: skip
