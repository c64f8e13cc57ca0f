"""A small fusion graph made by hand, and the same with a fault planted: what hard cases are to find.

`image` `(batch, 6)` and `words` `(batch, text, 4)` under `mask` `(batch, text)`: the image is scaled to unit length,
the words are averaged where the mask shows them, and both go through a matrix to `y` `(batch, 3)`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
from onnx import TensorProto

from mmtrt.onnx_files import SPEC_KEY, graph_spec, set_metadata
from mmtrt.precision.converted import PRECISION_KEY
from mmtrt.samples import SampleSet

RANGES = {"batch": [1, 3, 12], "text": [1, 4, 6]}
MODALITIES = {"image": ["image"], "text": ["words", "mask"]}

INPUTS: dict[str, list[int | str]] = {
    "image": ["batch", 6],
    "words": ["batch", "text", 4],
    "mask": ["batch", "text"],
}


def samples(lengths: Sequence[int] = (2, 3, 4, 5)) -> SampleSet:
    """One sample of each length: they are run one by one, as no two of them make a batch."""

    def read() -> Iterator[dict[str, np.ndarray]]:
        for index, length in enumerate(lengths):
            rng = np.random.default_rng(index)
            yield {
                "image": rng.standard_normal(6).clip(-1.5, 1.5).astype(np.float32),
                "words": rng.standard_normal((length, 4)).astype(np.float32),
                "mask": np.ones(length, np.int64),
            }

    return SampleSet(source="toys", key=f"toys {list(lengths)}", read=read)


class Toy:
    """Nodes of the graph, which a fault may add to or replace before it is saved."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.constants: dict[str, np.ndarray] = {
            "a": graphs.weights(rng, 6, 3),
            "b": graphs.weights(rng, 4, 3),
            "least": np.array([1e-6], np.float32),
            "one": np.array([1.0], np.float32),
            "last": np.array([-1], np.int64),
            "second": np.array([1], np.int64),
        }
        node = graphs.node
        self.nodes = {
            "image_in": node("Identity", ["image"], "pixels"),
            "norm": node("ReduceL2", ["pixels", "second"], "length", keepdims=1),
            "norm_floor": node("Max", ["length", "least"], "safe_length"),
            "unit": node("Div", ["pixels", "safe_length"], "unit"),
            "seen": node("Cast", ["mask"], "seen", to=TensorProto.FLOAT),
            "wide": node("Unsqueeze", ["seen", "last"], "wide"),
            "shown": node("Mul", ["words", "wide"], "shown"),
            "sum": node("ReduceSum", ["shown", "second"], "sum", keepdims=0),
            "count": node("ReduceSum", ["seen", "second"], "count", keepdims=1),
            "count_floor": node("Max", ["count", "one"], "safe_count"),
            "mean": node("Div", ["sum", "safe_count"], "mean"),
            "image_out": node("MatMul", ["unit", "a"], "left"),
            "text_out": node("MatMul", ["mean", "b"], "right"),
            "fused": node("Add", ["left", "right"], "fused"),
        }
        self.output = "fused"

    def then(self, *nodes: onnx.NodeProto, **constants: np.ndarray) -> Toy:
        """Add nodes behind the last one; the last output is the graph's."""
        self.nodes |= {one.output[0]: one for one in nodes}
        self.constants |= constants
        self.output = nodes[-1].output[0]
        return self

    def without(self, name: str) -> Toy:
        """Pass a node by: its readers read its first input."""
        gone = self.nodes.pop(name)
        for one in self.nodes.values():
            for index, value in enumerate(one.input):
                if value == gone.output[0]:
                    one.input[index] = gone.input[0]
        return self

    def replacing(self, name: str, *nodes: onnx.NodeProto, **constants: np.ndarray) -> Toy:
        """Put nodes in the place of one."""
        before = list(self.nodes.items())
        at = [key for key, _ in before].index(name)
        put = [(f"{name} {index}", one) for index, one in enumerate(nodes)]
        self.nodes = dict([*before[:at], *put, *before[at + 1 :]])
        self.constants |= constants
        return self

    def wrong_where(self, **sizes: int) -> Toy:
        """Twice as much where all sizes are these, as a kernel may be that is chosen by shape."""
        node = graphs.node
        tests = []
        nodes = [node("Shape", ["words"], "shape")]
        for index, (name, size) in enumerate(sizes.items()):
            self.constants |= {
                f"at{index}": np.array({"batch": 0, "text": 1}[name], np.int64),
                f"size{index}": np.array(size, np.int64),
            }
            nodes += [
                node("Gather", ["shape", f"at{index}"], f"is{index}", axis=0),
                node("Equal", [f"is{index}", f"size{index}"], f"hit{index}"),
                node("Cast", [f"hit{index}"], f"bad{index}", to=TensorProto.FLOAT),
            ]
            tests.append(f"bad{index}")
        product = tests[0]
        if len(tests) > 1:
            nodes.append(node("Mul", tests, "both"))
            product = "both"
        nodes += [node("Mul", [self.output, product], "extra"), node("Add", [self.output, "extra"], "wrong")]
        return self.then(*nodes)

    def saved(self, path: Path, *, precision: str = "", inputs: dict[str, Any] | None = None) -> str:
        """Write it with its spec; with a precision, as what a conversion made whose calibration saw `inputs`."""
        nodes = [*self.nodes.values(), graphs.node("Identity", [self.output], "y")]
        used = {name for one in nodes for name in one.input}
        proto = graphs.model(
            nodes,
            INPUTS,
            {"y": ["batch", 3]},
            {name: array for name, array in self.constants.items() if name in used},
            dtypes={"mask": TensorProto.INT64},
        )
        spec = {**graph_spec(proto).to_json(), "modalities": MODALITIES, "ranges": RANGES, "masks": {"mask": 0}}
        told = {SPEC_KEY: json.dumps(spec)}
        if precision:
            record = {"source": "toys", "samples": 4, "method": "max", "inputs": inputs or {}}
            told[PRECISION_KEY] = json.dumps({"precision": precision, "calibration": record})
        set_metadata(proto, told)
        onnx.save(proto, str(path))
        return str(path)
