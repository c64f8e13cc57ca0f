"""What a conversion wrote, as results, manifests and the ONNX itself tell it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from mmtrt.errors import ModelError
from mmtrt.onnx_files import metadata_of
from mmtrt.precision.plan import Kept
from mmtrt.results import unplaced
from mmtrt.tensors import ModelSpec

__all__ = ["PRECISION_KEY", "CalibrationRecord", "Converted", "stored_precision", "stored_summary"]

PRECISION_KEY = "mmtrt.precision"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRecord:
    """What calibrated a model, and what that cost.

    `wall_s` is the pass over the set, reading and counting included; `read_s` the part of it that fetched samples while
    the model ran on others; `inference_s` is plain FP32 inference over the same samples, reading left out, extrapolated
    from a few batches, which are timed when an INT8 pass is over; None for FP16. `inputs` has the smallest and the
    largest value of each float input.
    """

    source: str
    key: str
    samples: int
    method: str
    wall_s: float
    read_s: float
    inference_s: float | None
    peak_rss_mib: float
    on_data: bool
    inputs: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a conversion wrote: counts of INT8 nodes and their share of the multiply-accumulates, and what is kept.

    `coverage` and `refine` are those of the options where INT8 was placed here, None and () elsewhere.
    """

    onnx: Path
    precision: str
    spec: ModelSpec
    int8_nodes: int = 0
    mac_nodes: int = 0
    mac_share: float = 0.0
    coverage: str | None = None
    refine: tuple[str, ...] = ()
    calibration: CalibrationRecord | None = None
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> Converted:
        """Read what `asdict` gave, with the spec as JSON, for a file that now lies at `path`."""
        record = data["calibration"]
        return cls(
            onnx=path,
            precision=data["precision"],
            spec=ModelSpec.from_json(data["spec"]),
            int8_nodes=data["int8_nodes"],
            mac_nodes=data["mac_nodes"],
            mac_share=data["mac_share"],
            coverage=data["coverage"],
            refine=tuple(data["refine"]),
            calibration=CalibrationRecord(**record) if record else None,
            kept=tuple(Kept(**kept) for kept in data["kept"]),
            notes=tuple(data["notes"]),
        )

    def summary(self) -> dict[str, Any]:
        """Return what the ONNX metadata and the manifest say of it; nothing that differs from run to run."""
        calibration = None
        if self.calibration:
            record = asdict(self.calibration)
            record["source"] = unplaced(record["source"])
            calibration = {k: record[k] for k in ("source", "key", "samples", "method", "on_data", "inputs")}
        return {
            "schema": "mmtrt.precision/1",
            "precision": self.precision,
            "int8": {
                "nodes": self.int8_nodes,
                "of": self.mac_nodes,
                "mac_share": round(self.mac_share, 4),
                "coverage": self.coverage,
                "refine": list(self.refine),
            },
            "calibration": calibration,
            "kept": [asdict(kept) for kept in self.kept],
        }


def stored_precision(proto: onnx.ModelProto) -> str:
    """Return the precision that a model says it has, else what its graph shows."""
    told = stored_summary(proto)
    if told:
        return str(told["precision"])
    if any(node.op_type == "DequantizeLinear" for node in proto.graph.node):
        return "int8"
    weights = [t.data_type for t in proto.graph.initializer]
    halves = weights.count(onnx.TensorProto.FLOAT16)
    return "fp16" if halves > weights.count(onnx.TensorProto.FLOAT) else "fp32"


def stored_summary(proto: onnx.ModelProto) -> dict[str, Any]:
    """Return what a conversion wrote into the model's metadata, nothing without one; ModelError where it is broken."""
    text = metadata_of(proto).get(PRECISION_KEY)
    if text is None:
        return {}
    try:
        found = {"calibration": None, "kept": [], "int8": None, **json.loads(text)}
        record = found["calibration"]
        missing = set() if record is None else {"source", "samples", "method"} - record.keys()
        for kept in found["kept"]:
            missing |= {"precision", "why"} - kept.keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(f"{type(error).__name__}: {error}") from error
    if missing or found.get("precision") not in {"fp32", "fp16", "int8"}:
        raise _unreadable(f"it lacks {', '.join(sorted(missing)) or 'a precision'}")
    return found


def _unreadable(why: str) -> ModelError:
    return ModelError(f"the model's {PRECISION_KEY} metadata can't be read: {why}", fix="Convert the model again.")
