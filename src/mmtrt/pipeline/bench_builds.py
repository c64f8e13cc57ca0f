"""Two builds of one model compared, kernel by kernel: with times where both ran, else as their builders tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmtrt.bench.branches import nodes_of
from mmtrt.bench.layers import LayerTimes, Nodes
from mmtrt.bench.slower import Builds, compare_builds, engine_layers
from mmtrt.engine import manifest as manifests
from mmtrt.engine.inspect import PlanInfo, inspect_engine
from mmtrt.errors import InputError, UsageError
from mmtrt.onnx_files import model_digest, model_spec, open_model
from mmtrt.pipeline.sides import ENGINE_SUFFIXES
from mmtrt.results import BenchRow

__all__ = ["compare_engines", "known_nodes", "with_slower"]

_ONE_MODEL = "Name two builds of one ONNX, as its FP16 and its INT8 engine."


def known_nodes(path: Path) -> Nodes | None:
    """Return what is known of a file's nodes: of an ONNX its own, of an engine those of the ONNX beside it.

    None where that is not the very one that the engine was built from.
    """
    onnx = path if path.suffix == ".onnx" else path.with_suffix(".onnx")
    if not onnx.is_file():
        return None
    if path != onnx:
        manifest = manifests.read(path) if manifests.manifest_path(path).is_file() else None
        if manifest is None or manifest.onnx_digest != model_digest(onnx):
            return None
    model = open_model(onnx)
    return nodes_of(model, model_spec(model))


def compare_engines(first: Path, second: Path) -> Builds:
    """Compare two engines by the kernels that their builders told of: neither is run.

    InputError where an engine is missing or altered, lacks its table of layers or the ONNX that it was built from, or
    where they are of different models; UsageError where a file is no engine.
    """
    for path in (first, second):
        if path.suffix not in ENGINE_SUFFIXES:
            raise UsageError(
                f"{path} is no engine: two builds are compared by their kernels",
                fix="Name two engines; `mmtrt bench A B --layers` compares ONNX files too.",
            )
    _check_one_model(inspect_engine(first), inspect_engine(second))
    nodes = _both(known_nodes(first), known_nodes(second))
    tables = [manifests.layer_rows(path) for path in (first, second)]
    for path, rows in zip((first, second), tables, strict=True):
        if rows is None:
            raise InputError(
                f"{path} has no table of its layers beside it", fix="`mmtrt build` writes it: build again."
            )
    if nodes is None:
        raise InputError(
            f"the ONNX of {first} or of {second} is not beside it", fix="Copy the ONNX that it was built from."
        )
    before, after = (engine_layers(rows or (), nodes) for rows in tables)
    if not {name for layer in before for name in layer.nodes} & {name for layer in after for name in layer.nodes}:
        raise InputError(f"{first} and {second} have no node in common: they are of different models", fix=_ONE_MODEL)
    return compare_builds(before, after, nodes, names=(str(first), str(second)), timed=False)


def _check_one_model(first: PlanInfo, second: PlanInfo) -> None:
    for info in (first, second):
        if info.integrity == "altered":
            raise InputError(f"{info.engine} is not what its manifest tells of", fix="Build the engine again.")
    models = [(info.manifest.model or {}) if info.manifest else {} for info in (first, second)]
    one, other = (model.get("digest") for model in models)
    if one and other and one != other:
        sources = [str(model.get("source") or "a model without a source") for model in models]
        told = f"{sources[0]} and of {sources[1]}" if sources[0] != sources[1] else f"{sources[0]}, exported twice"
        raise InputError(f"{first.engine} and {second.engine} are of different models: of {told}", fix=_ONE_MODEL)


def with_slower(rows: Sequence[BenchRow]) -> tuple[BenchRow, ...]:
    """Add to the layers of each row where it is not faster than the first file at the same sizes, and why.

    Only of builds of the same kind, as of two engines: kernels of different runtimes don't compare.
    """
    firsts: dict[tuple[tuple[str, int], ...], BenchRow] = {}
    known: dict[str, Nodes | None] = {}
    found = []
    for row in rows:
        first = firsts.setdefault(tuple(sorted(row.sizes.items())), row)
        told = None
        if first is not row and row.layers and first.layers and _kind(row) == _kind(first):
            for one in (first, row):
                if one.file not in known:
                    known[one.file] = known_nodes(Path(one.file))
            nodes = _both(known[first.file], known[row.file])
            told = None if nodes is None else _slower(first.layers, row.layers, nodes)
        found.append(row if told is None else replace(row, layers={**(row.layers or {}), "slower": told}))
    return tuple(found)


def _slower(before: Any, after: Any, nodes: Nodes) -> dict[str, Any]:
    one, other = LayerTimes.from_json(before), LayerTimes.from_json(after)
    return compare_builds(one.layers, other.layers, nodes, names=(one.file, other.file)).to_json()


def _kind(row: BenchRow) -> str:
    suffix = Path(row.file).suffix
    return "engine" if suffix in ENGINE_SUFFIXES else suffix


def _both(first: Nodes | None, second: Nodes | None) -> Nodes | None:
    """Put together what is known of two builds: they share the model's own nodes."""
    if first is None or second is None:
        return None
    return Nodes(
        branches={**first.branches, **second.branches},
        modules={**first.modules, **second.modules},
        ops={**first.ops, **second.ops},
    )
