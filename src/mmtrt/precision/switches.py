"""A model whose planned layers can be INT8 or float, layer by layer, from one run to the next.

One graph and one session serve every placement: each planned layer reads its operands through a switch, a boolean
input, between the float value and what INT8 makes of it. What is not switched on stays FP32; FP16's own rounding is
tens of decibels below INT8's, and is judged on the model that is written in the end.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mmtrt.precision.balance import Balance, widened
from mmtrt.precision.graph import MacNode, constant
from mmtrt.precision.plan import Plan
from mmtrt.precision.qdq import bias_input, channels, padded, quantised_weight
from mmtrt.precision.rows import from_matrix, pads, repeat, weight_matrix
from mmtrt.precision.scales import dequantized, int8_scale
from mmtrt.precision.tune import Tuned
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array

__all__ = ["Switched"]

_PREFIX = "mmtrt.int8."


class Switched:
    """Runs a model with any of its planned layers in INT8; `layers` are numbered as in the plan."""

    def __init__(self, model: ir.Model, plan: Plan, tuned: Tuned, folder: Path | None = None) -> None:
        """Build the switched copy of a model whose external data lie in `folder`."""
        self.layers: Sequence[MacNode] = plan.nodes
        self.outputs = [value.name or "" for value in model.graph.outputs]
        switched = _Builder(model, plan, tuned).build()
        self._session = session_from(ir.to_proto(switched), "watching", folder=folder)

    def run(self, feeds: Mapping[str, Array], on: Collection[int]) -> dict[str, Array]:
        """Return the outputs with these layers in INT8, the others in FP32."""
        switches = {f"{_PREFIX}{i}": np.array(i in on) for i in range(len(self.layers))}
        return dict(zip(self.outputs, self._session.run(self.outputs, {**feeds, **switches}), strict=True))


class _Builder:
    """Puts switches into a copy of a model."""

    def __init__(self, model: ir.Model, plan: Plan, tuned: Tuned) -> None:
        self._model = ir.from_proto(ir.to_proto(model))
        self._graph = self._model.graph
        self._own = dict(zip(model.graph, self._graph, strict=True))
        self._plan = plan
        self._tuned = tuned
        self._switches: list[ir.Value] = []
        self._rounded: dict[str, ir.Value] = {}
        self._padded: dict[ir.Value, ir.Value] = {}
        self._count = 0

    def build(self) -> ir.Model:
        for index, mac in enumerate(self._plan.nodes):
            switch = ir.Value(name=f"{_PREFIX}{index}", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape(()))
            self._switches.append(switch)
            self._layer(mac, switch)
        self._graph.inputs.extend(self._switches)
        for node, index in self._plan.residuals:
            self._residual(node, index)
        return self._model

    def _layer(self, mac: MacNode, switch: ir.Value) -> None:
        node = self._own[mac.node]
        first = node.inputs[mac.activations[0]]
        found = self._tuned.balances.get(first.name or "") if first is not None else None
        shift = self._tuned.biases.get(mac)
        if found is not None and found.shift.any() and any(pads(mac)):
            self._pad(node, pads(mac))
        if mac.weight is not None:
            float_weight = constant(mac.node.inputs[mac.weight])
            assert float_weight is not None  # noqa: S101 -- a weighted node has one
            weight = self._weight(mac, float_weight, found)
            if found is not None and found.shift.any():
                # The graph that is written adds the shift times the exact weight; here it meets the rounded one.
                moved = widened(found, repeat(mac)).bias(weight_matrix(mac, weight))
                shift = (0 if shift is None else shift) - moved
            self._switch(node, mac.weight, switch, self._constant(weight))
        for index in mac.activations:
            self._switch(node, index, switch, self._activation(node, index, found, mac))
        target, index = bias_input(mac)
        if shift is not None and target is not None:
            bias = constant(target.inputs[index])
            assert bias is not None  # noqa: S101 -- bias_input looked
            changed = self._constant((bias + shift.reshape(bias.shape)).astype(np.float32))
            self._switch(self._own[target], index, switch, changed)

    def _pad(self, node: ir.Node, border: tuple[int, ...]) -> None:
        """Pad a convolution's input before it, as where its values are shifted."""
        value = node.inputs[0]
        assert value is not None  # noqa: S101 -- a planned operand exists
        if value not in self._padded:
            made = padded(self._graph, value, border)
            self._put(made, behind=value)
            self._padded[value] = made.outputs[0]
        node.replace_input_with(0, self._padded[value])
        node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(border))

    def _weight(self, mac: MacNode, array: Array, found: Balance | None) -> Array:
        """Return what the stored weight stands for, the balance taken out again."""
        codes, scale = self._tuned.weights.get(mac.node) or quantised_weight(mac, array)
        stored = dequantized(codes, scale, mac.channel_axis)
        if found is None:
            return stored
        factors = np.repeat(found.scale, repeat(mac))[:, None]
        return from_matrix(mac, np.asarray(weight_matrix(mac, stored) / factors, dtype=np.float32), array.shape)

    def _activation(self, node: ir.Node, index: int, found: Balance | None, mac: MacNode) -> ir.Value:
        value, own = node.inputs[index], mac.node.inputs[index]
        assert value is not None and own is not None  # noqa: S101, PT018 -- a planned operand exists
        name = own.name or ""
        if name not in self._rounded:
            last = value
            shape = (-1, *(1,) * (-1 - channels(mac)))
            if found is not None:
                last = self._op("Sub", last, self._constant(found.shift.reshape(shape)), behind=value)
                last = self._op("Div", last, self._constant(found.scale.reshape(shape)), behind=last)
            scale = self._constant(int8_scale(self._tuned.amax[name]).reshape(()))
            zero = self._constant(np.zeros((), dtype=np.int8))
            last = self._op("QuantizeLinear", last, scale, zero, behind=last, dtype=ir.DataType.INT8)
            last = self._op("DequantizeLinear", last, scale, zero, behind=last)
            if found is not None:
                last = self._op("Mul", last, self._constant(found.scale.reshape(shape)), behind=last)
                last = self._op("Add", last, self._constant(found.shift.reshape(shape)), behind=last)
            self._rounded[name] = last
        return self._rounded[name]

    def _residual(self, node: ir.Node, index: int) -> None:
        """Switch a branch with the convolutions whose results it joins."""
        owners = {mac.node: switch for mac, switch in zip(self._plan.nodes, self._switches, strict=True)}
        producers = [value.producer() for value in node.inputs if value is not None]
        own = [owners[made] for made in producers if made in owners]
        value = node.inputs[index]
        assert value is not None  # noqa: S101 -- a planned operand exists
        name = value.name or ""
        target = self._own[node]
        if name not in self._rounded:
            mine = target.inputs[index]
            assert mine is not None  # noqa: S101
            scale = self._constant(int8_scale(self._tuned.amax[name]).reshape(()))
            zero = self._constant(np.zeros((), dtype=np.int8))
            codes = self._op("QuantizeLinear", mine, scale, zero, behind=mine, dtype=ir.DataType.INT8)
            self._rounded[name] = self._op("DequantizeLinear", codes, scale, zero, behind=codes)
        switch = own[0] if len(own) == 1 else self._either(own, target)
        self._switch(target, index, switch, self._rounded[name])

    def _either(self, switches: list[ir.Value], before: ir.Node) -> ir.Value:
        out = self._value(ir.DataType.BOOL)
        self._graph.insert_before(before, ir.Node("", "Or", switches[:2], outputs=[out]))
        return out

    def _switch(self, node: ir.Node, index: int, switch: ir.Value, rounded: ir.Value) -> None:
        out = self._value(ir.DataType.FLOAT)
        self._graph.insert_before(node, ir.Node("", "Where", [switch, rounded, node.inputs[index]], outputs=[out]))
        node.replace_input_with(index, out)

    def _op(self, kind: str, *inputs: ir.Value, behind: ir.Value, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        out = self._value(dtype)
        self._put(ir.Node("", kind, inputs, outputs=[out]), behind=behind)
        return out

    def _put(self, made: ir.Node, *, behind: ir.Value) -> None:
        producer = behind.producer()
        if producer is not None:
            self._graph.insert_after(producer, made)
        else:
            self._graph.insert_before(self._graph[0], made)

    def _constant(self, array: Array) -> ir.Value:
        value = self._value(ir.DataType.from_numpy(array.dtype))
        value.shape = ir.Shape(array.shape)
        value.const_value = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=value.name)
        self._graph.register_initializer(value)
        return value

    def _value(self, dtype: ir.DataType) -> ir.Value:
        self._count += 1
        return ir.Value(name=f"{_PREFIX}value.{self._count}", type=ir.TensorType(dtype))
