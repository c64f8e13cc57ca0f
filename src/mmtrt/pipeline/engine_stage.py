"""The engine stage: one ONNX, one target's options, one engine with its manifest, cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmtrt.engine import manifest as manifests
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine
from mmtrt.engine.flavours import choose, gpu
from mmtrt.engine.table import Graph
from mmtrt.errors import BuildError
from mmtrt.onnx_files import model_digest, open_model
from mmtrt.pipeline.context import Context
from mmtrt.precision.graph import MODULE_KEY, mac_nodes, typed, usual_shapes, with_weights_in
from mmtrt.results import plain
from mmtrt.tensors import ModelSpec

__all__ = ["ENGINE", "TIMING", "engine_stage"]

ENGINE = "model.engine"
"""The engine's name in the stage's folder; its manifest and its layers lie beside it."""
TIMING = "timing.cache"
"""What TensorRT's builder timed, in the stage's folder; TensorRT-RTX times nothing."""


def engine_stage(
    context: Context,
    onnx_path: Path,
    spec: ModelSpec,
    options: BuildOptions,
    *,
    precision: str,
    calibration: Mapping[str, Any] | None = None,
) -> tuple[Path, bool]:
    """Build an engine, or take it from the cache; return the stage's folder, and whether it was there already.

    MachineError where this machine can't build for the options' flavour, BuildError where the builder refuses.
    """
    flavour = choose(options.flavor)
    here = gpu()
    profile = spec.dynamic_profile()
    digest = model_digest(onnx_path)
    parts = {
        "onnx": digest,
        "profile": {name: plain(asdict(span)) for name, span in profile.items()},
        "options": options.to_json(),
        "flavor": [flavour.name, flavour.version],
        "gpu": here.name if here else None,
        "precision": precision,
    }

    def work(folder: Path) -> None:
        engine = folder / ENGINE
        given = options
        if flavour.name == "tensorrt" and options.timing_cache is None:
            # Of use to whoever builds on such a GPU again.
            given = replace(options, timing_cache=folder / TIMING)
        graph = _graph(onnx_path, {name: span[1] for name, span in spec.ranges.items()})
        built = build_engine(onnx_path, engine, profile=profile, options=given, explain=graph.modules.get)
        if precision == "int8":
            _kept_int8(onnx_path, built)
        model = {"source": spec.source, "digest": spec.digest, "versions": dict(spec.versions)} if spec.source else None
        manifests.write(
            built, onnx_digest=digest, precision=precision, calibration=calibration, graph=graph, model=model
        )

    return context.cache.run("engine", parts, work)


def _kept_int8(onnx_path: Path, built: EngineBuild) -> None:
    """Raise BuildError where a kind of layer that the ONNX has in INT8 is in the engine in float alone."""
    if built.summary is None:
        return
    asked = _quantised_kinds(onnx_path)
    for kind, found in (("conv", built.summary.conv), ("gemm", built.summary.gemm)):
        if asked.get(kind) and found and not found.get("int8"):
            raise BuildError(
                f"{onnx_path.name} asks for INT8, and the engine's {kind} layers came out in {', '.join(found)}",
                fix="The builder folded the Q/DQ away: build it in FP16, or quantise the model with mmtrt.",
            )


def _quantised_kinds(onnx_path: Path) -> Counter[str]:
    """Count the nodes both of whose operands come out of DequantizeLinear, over casts, by kind."""
    proto = open_model(onnx_path)
    producers = {name: node for node in proto.graph.node for name in node.output}

    def dequantised(name: str) -> bool:
        node = producers.get(name)
        while node is not None and node.op_type == "Cast":
            node = producers.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    kinds = {"Conv": "conv", "Gemm": "gemm", "MatMul": "gemm"}
    return Counter(
        kinds[node.op_type]
        for node in proto.graph.node
        if node.op_type in kinds and all(dequantised(name) for name in node.input[:2])
    )


def _graph(onnx_path: Path, sizes: Mapping[str, int]) -> Graph:
    """Return what the ONNX knows of its nodes; nothing of their work where its shapes can't be told."""
    proto = open_model(onnx_path)
    modules = {
        node.name: entry.value for node in proto.graph.node for entry in node.metadata_props if entry.key == MODULE_KEY
    }
    macs = mac_nodes(with_weights_in(typed(proto), onnx_path.parent), usual_shapes(proto, sizes))
    return Graph(modules=modules, macs={mac.name: mac.macs for mac in macs})
