"""The final layers of an engine, as the builder or the inspector tells them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["EngineLayer", "LayerSummary", "LayerTensor", "parse_inspector", "parse_layers", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTensor:
    """A tensor of a layer: dtype as a short name (`fp32`, `int8`), -1 for a dynamic axis."""

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLayer:
    """One layer: `kind` and `tactic` in the builder's own words, `nodes` the ONNX nodes that went into it."""

    name: str
    kind: str
    tactic: str
    inputs: tuple[LayerTensor, ...]
    outputs: tuple[LayerTensor, ...]
    constants: tuple[LayerTensor, ...] = ()
    nodes: tuple[str, ...] = ()

    @property
    def role(self) -> str:
        """`gemm`, `conv`, `move` (only copies data), `shape` (no kernel: host arithmetic, a wait) or `other`."""
        return _role(self)

    @property
    def precision(self) -> str:
        """What the layer computes in: its first input's type, `int8` only where its weights are int8 too."""
        return _precision(self)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {**asdict(self), "role": self.role, "precision": self.precision}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """Counts: kernels, matrix products and convolutions by precision, kernels that only move data."""

    kernels: int
    moves: int
    gemm: Mapping[str, int] = field(default_factory=dict)
    conv: Mapping[str, int] = field(default_factory=dict)

    @property
    def int8(self) -> int:
        """How many matrix products and convolutions take INT8."""
        return self.gemm.get("int8", 0) + self.conv.get("int8", 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "kernels": self.kernels,
            "moves": self.moves,
            "gemm": dict(self.gemm),
            "conv": dict(self.conv),
        }


def summarise(layers: Sequence[EngineLayer]) -> LayerSummary:
    """Count what is in a list of layers."""
    roles = Counter(layer.role for layer in layers)

    def by_precision(role: str) -> dict[str, int]:
        return dict(sorted(Counter(layer.precision for layer in layers if layer.role == role).items()))

    return LayerSummary(
        kernels=len(layers) - roles["shape"],
        moves=roles["move"],
        gemm=by_precision("gemm"),
        conv=by_precision("conv"),
    )


# ---------------------------------------------------------------------------------------- what it does

_GEMM = re.compile(r"gemm|matrix_?multiply|matmul|fully_?connected", re.IGNORECASE)
_CONV = re.compile(r"correlation|convolution|^(de)?conv", re.IGNORECASE)
_MOVE = re.compile(r"reformat|shuffle|^copy|noop|concat|slice", re.IGNORECASE)
_SHAPE = re.compile(r"shape_call|^shapehostto|^constant$|^signal$|^wait$", re.IGNORECASE)
# The compiler names a fused kernel by its steps, cut to four letters: MulMinMaxRounCast, MoveReplConc.
_STEPS = re.compile(r"__myl_(?P<steps>[A-Za-z]+)")
_MOVING_STEPS = {
    "Cast",
    "Conc",
    "Copy",
    "Move",
    "Pad",
    "Perm",
    "Repl",
    "Resh",
    "Slic",
    "Tran",
    "Unsq",
    "Sque",
}
_GEMM_STEPS = {"Fc", "Gemm", "Matm", "Mha"}
_CONV_STEPS = {"Conv", "Corr", "Deco"}


def _steps(layer: EngineLayer) -> list[str]:
    named = _STEPS.search(layer.name) or _STEPS.search(layer.tactic)
    return re.findall(r"[A-Z][a-z0-9]*", named["steps"]) if named else []


def _role(layer: EngineLayer) -> str:
    steps = set(_steps(layer))
    rules = (
        ("shape", _SHAPE.search(layer.kind)),
        ("gemm", _GEMM.search(layer.kind) or steps & _GEMM_STEPS),
        ("conv", _CONV.search(layer.kind) or steps & _CONV_STEPS),
        ("move", _MOVE.search(layer.kind) or (steps and steps <= _MOVING_STEPS)),
    )
    return next((role for role, holds in rules if holds), "other")


def _precision(layer: EngineLayer) -> str:
    data = [tensor.dtype for tensor in (*layer.inputs, *layer.constants)]
    if not data:
        return "unknown"
    if layer.inputs and any(t.dtype == "int8" for t in layer.inputs):
        # A weight has two axes that are not 1; scales and biases have one.
        weights = [t for t in layer.constants if sum(dim != 1 for dim in t.dims) > 1]
        if all(weight.dtype == "int8" for weight in weights):
            return "int8"
    floats = [dtype for dtype in data if dtype != "int8"]
    return floats[0] if floats else data[0]


# --------------------------------------------------------------------------------------------- reading

_TENSOR = r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[-\d, ]*)\],(?P<rest>.*?) ?\}(?=, \{ Name: |$)"
_TENSORS = re.compile(_TENSOR)
_LINE = re.compile(
    r"Name: (?P<name>.*), LayerType: (?P<kind>\S*), Inputs: \[(?P<inputs>.*?)\], "
    r"(?:Constants: \[(?P<constants>.*?)\], )?Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>.*), "
    r"StreamId: -?\d+, (?:EventId: -?\d+, )?Metadata: ?(?P<metadata>.*)"
)
_DATATYPE = re.compile(r"Datatype: (?P<dtype>\w+)")
_NODE = re.compile(r"\[ONNX Layer: (?P<node>.*?)\](?=\[ONNX Layer: |[\x1e\x1f]|$)")
_SHORT = {
    "float": "fp32",
    "fp32": "fp32",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "int8": "int8",
    "int32": "int32",
    "int64": "int64",
    "bool": "bool",
    "fp8": "fp8",
    "uint8": "uint8",
}


def _short(words: str) -> str:
    """Return the type that a description names: `Row major linear FP32 format` is fp32."""
    return next((_SHORT[word] for word in re.findall(r"\w+", words.lower()) if word in _SHORT), words.lower())


def parse_layers(block: str) -> tuple[EngineLayer, ...]:
    """Read the `Layers:` block of the builder's verbose log; ValueError quotes a line that can't be read."""
    head, _, rest = block.partition("\n")
    if head.strip() != "Layers:":
        raise ValueError(f"no block of layers starts with {head[:80]!r}")
    layers = []
    for line in rest.splitlines():
        if not line.strip():
            break
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"a layer's line is not understood: {line[:200]!r}")
        layers.append(
            EngineLayer(
                name=match["name"],
                kind=match["kind"],
                tactic=match["tactic"],
                inputs=_tensors(match["inputs"]),
                outputs=_tensors(match["outputs"]),
                constants=_tensors(match["constants"] or ""),
                nodes=_nodes(match["metadata"]),
            )
        )
    return tuple(layers)


def _tensors(text: str) -> tuple[LayerTensor, ...]:
    found = []
    for match in _TENSORS.finditer(text.strip()):
        dtype = _DATATYPE.search(match["rest"])
        dims = tuple(int(dim) for dim in match["dims"].split(",") if dim.strip())
        found.append(LayerTensor(name=match["name"], dtype=_short(dtype["dtype"]) if dtype else "", dims=dims))
    if len(found) != text.count("{ Name: "):
        raise ValueError(f"a layer's tensors are not understood: {text[:200]!r}")
    return tuple(found)


def _nodes(metadata: str) -> tuple[str, ...]:
    return tuple(match["node"] for match in _NODE.finditer(metadata.strip()))


def parse_inspector(text: str) -> tuple[EngineLayer, ...]:
    """Read the engine inspector's JSON; ValueError where the engine was not built with detailed verbosity."""
    rows = json.loads(text).get("Layers", [])
    if any(not isinstance(row, dict) for row in rows):
        raise ValueError("the inspector gives names only: the engine was built without detailed verbosity")

    def tensors(row: Mapping[str, Any], key: str) -> tuple[LayerTensor, ...]:
        return tuple(
            LayerTensor(
                name=str(tensor.get("Name", "")),
                dtype=_short(str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")),
                dims=tuple(tensor.get("Dimensions", ())),
            )
            for tensor in row.get(key, ())
            if isinstance(tensor, dict)
        )

    return tuple(
        EngineLayer(
            name=str(row.get("Name", "")),
            kind=str(row.get("LayerType", "")),
            tactic=str(row.get("TacticName", "")),
            inputs=tensors(row, "Inputs"),
            outputs=tensors(row, "Outputs"),
            constants=tensors(row, "Constants"),
            nodes=_nodes(str(row.get("Metadata", ""))),
        )
        for row in rows
    )
