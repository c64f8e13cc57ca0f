"""What is in a file: an ONNX, an engine, a pipeline, a set of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from mmtrt.engine.inspect import inspect_engine
from mmtrt.onnx_files import model_digest, model_spec, open_model
from mmtrt.parts.manifest import SUFFIX, read_manifest
from mmtrt.pipeline.sides import ENGINE_SUFFIXES
from mmtrt.precision.converted import stored_precision, stored_summary
from mmtrt.precision.graph import mac_nodes, module_of, typed, usual_shapes, with_weights_in
from mmtrt.report.terminal import kernels_text
from mmtrt.results import plain
from mmtrt.samples import open_set
from mmtrt.tensors import Array, format_shape

__all__ = ["inspect_file", "inspect_view"]


def inspect_file(path: Path) -> dict[str, Any]:
    """Return what is in a file as JSON data with a `kind`; InputError where it is missing or broken."""
    if path.suffix in ENGINE_SUFFIXES:
        return _engine(path)
    if path.suffix == ".onnx" or not path.exists():
        return _onnx(path)
    if path.name.endswith(SUFFIX):
        return {"kind": "pipeline", "file": str(path), **read_manifest(path).to_json(), "schema": "mmtrt.inspect/1"}
    return _samples(path)


def _engine(path: Path) -> dict[str, Any]:
    found = inspect_engine(path)
    return {
        "schema": "mmtrt.inspect/1",
        "kind": "engine",
        "file": str(path),
        "bytes": found.engine_bytes,
        "flavor": found.flavor,
        "integrity": found.integrity,
        "manifest": found.manifest.to_json() if found.manifest else None,
        "layers": found.layers,
    }


def _onnx(path: Path) -> dict[str, Any]:
    proto = open_model(path)
    spec = model_spec(proto)
    usual = {name: span[1] for name, span in spec.ranges.items()}
    macs = mac_nodes(with_weights_in(typed(proto), path.parent), usual_shapes(proto, usual))
    by_branch: Counter[str] = Counter()
    for mac in macs:
        by_branch[module_of(mac.node).partition(".")[0]] += mac.macs
    return {
        "schema": "mmtrt.inspect/1",
        "kind": "onnx",
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": model_digest(path),
        "opset": next((o.version for o in proto.opset_import if o.domain in {"", "ai.onnx"}), None),
        "precision": stored_precision(proto),
        "spec": spec.to_json(),
        "nodes": dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        "weights": _weights(proto),
        "macs": sum(mac.macs for mac in macs),
        "macs_by_branch": dict(by_branch.most_common()),
        "conversion": stored_summary(proto) or None,
    }


def _weights(proto: onnx.ModelProto) -> dict[str, int]:
    """Elements of initialisers by type."""
    counts: Counter[str] = Counter()
    for tensor in proto.graph.initializer:
        size = 1
        for dim in tensor.dims:
            size *= dim
        counts[onnx.TensorProto.DataType.Name(tensor.data_type).lower()] += size
    return dict(counts.most_common())


def _samples(path: Path) -> dict[str, Any]:
    samples = open_set(str(path))
    about: dict[str, dict[str, Any]] = {}
    count = 0
    for sample in samples:
        count += 1
        for name, array in sample.items():
            _see(about.setdefault(name, {"dtype": str(array.dtype), "shapes": Counter(), "non_finite": 0}), array)
    tensors = {name: {**row, "shapes": dict(row["shapes"].most_common())} for name, row in sorted(about.items())}
    return {
        "schema": "mmtrt.inspect/1",
        "kind": "samples",
        "file": str(path),
        "count": count,
        "tensors": plain(tensors),
    }


def _see(row: dict[str, Any], array: Array) -> None:
    row["shapes"][format_shape(array.shape)] += 1
    if array.dtype.kind not in "fiub":
        return
    finite = array[np.isfinite(array)]
    row["non_finite"] += array.size - finite.size
    if finite.size:
        row["min"] = min(row.get("min", np.inf), float(finite.min()))
        row["max"] = max(row.get("max", -np.inf), float(finite.max()))


# -------------------------------------------------------------------------------------------------------- view


def inspect_view(found: Mapping[str, Any]) -> dict[str, str]:
    """Return names and values for people."""
    if found["kind"] == "onnx":
        return _onnx_view(found)
    if found["kind"] == "pipeline":
        return _pipeline_view(found)
    if found["kind"] == "samples":
        rows = {"samples": str(found["count"])}
        for name, row in found["tensors"].items():
            shapes = ", ".join(f"{shape} ({count})" for shape, count in list(row["shapes"].items())[:6])
            span = f" in [{row['min']:g}, {row['max']:g}]" if "min" in row else ""
            strange = f", {row['non_finite']} values not finite" if row["non_finite"] else ""
            rows[name] = f"{row['dtype']}{span}{strange}; {shapes}"
        return rows
    return _engine_view(found)


def _onnx_view(found: Mapping[str, Any]) -> dict[str, str]:
    spec = found["spec"]

    def tensors(rows: list[Mapping[str, Any]]) -> str:
        return "; ".join(f"{row['name']}: {row['dtype']} {format_shape(row['shape'])}" for row in rows)

    rows = {
        "file": f"{found['file']}  ({found['bytes'] / 1e6:.2f} MB)",
        "opset": str(found["opset"]),
        "precision": found["precision"],
        "inputs": tensors(spec["inputs"]),
        "outputs": tensors(spec["outputs"]),
        "ranges": ", ".join(f"{name} {a}..{b}..{c}" for name, (a, b, c) in spec["ranges"].items()) or "none told",
        "modalities": "; ".join(f"{name}: {', '.join(inputs)}" for name, inputs in spec["modalities"].items()),
        "source": spec["source"] or "not exported by mmtrt",
        "weights": ", ".join(f"{count} {dtype}" for dtype, count in found["weights"].items()),
        "MACs": f"{found['macs'] / 1e6:.1f} M at the usual shape",
        "by branch": ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in found["macs_by_branch"].items()),
        "nodes": ", ".join(f"{count} {kind}" for kind, count in found["nodes"].items()),
    }
    conversion = found["conversion"]
    if conversion and conversion["calibration"]:
        record = conversion["calibration"]
        rows["calibration"] = f"{record['samples']} samples of {record['source']}, {record['method']}"
    if conversion and conversion["kept"]:
        reasons = Counter((kept["precision"], kept["why"]) for kept in conversion["kept"])
        rows["kept"] = "; ".join(f"{count} in {p}: {why}" for (p, why), count in reasons.most_common())
    return rows


def _pipeline_view(found: Mapping[str, Any]) -> dict[str, str]:
    rows = {"pipeline": found["name"], "source": found["source"], "takes": ", ".join(found["inputs"])}
    for part, files in found["files"].items():
        rows[part] = "; ".join(f"{precision}: {', '.join(kinds.values())}" for precision, kinds in files.items())
    rows["links"] = "; ".join(f"{link['from']} -> {link['to']}" for link in found["links"])
    rows["gives"] = ", ".join(found["outputs"]) or "what the step makes"
    step = found["step"]
    if step is not None:
        rows["step"] = f"{step['part']}, at most {step['steps']} tokens from {step['start']} to {step['end']}"
    for chain, parts in found["chains"].items():
        rows[f"chain {chain}"] = ", ".join(f"{part} {precision}" for part, precision in parts.items())
    return rows


def _engine_view(found: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        "file": f"{found['file']}  ({found['bytes'] / 1e6:.2f} MB)",
        "flavour": found["flavor"] or "unknown by its header",
        "manifest": found["integrity"],
    }
    manifest = found["manifest"]
    if manifest is None:
        return rows
    gpu = manifest["gpu"]["name"] if manifest["gpu"] else "no GPU: ahead of time"
    rows["built by"] = f"{manifest['flavor']} {manifest['flavor_version']} on {gpu} in {manifest['build_s']:.1f} s"
    rows["precision"] = manifest["precision"]
    for kind in ("inputs", "outputs"):
        rows[kind] = "; ".join(f"{t['name']}: {t['dtype']} {format_shape(t['shape'])}" for t in manifest[kind])
    rows["profile"] = "; ".join(
        f"{name}: {' .. '.join(format_shape(span[end]) for end in ('min', 'opt', 'max'))}"
        for name, span in manifest["profile"].items()
    )
    if manifest["calibration"]:
        record = manifest["calibration"]
        rows["calibration"] = f"{record['samples']} samples of {record['source']}, {record['method']}"
    if manifest["layers"]:
        rows["kernels"] = kernels_text(manifest["layers"])
    for note in manifest["notes"]:
        rows.setdefault("notes", "")
        rows["notes"] += f"{note} "
    return rows
