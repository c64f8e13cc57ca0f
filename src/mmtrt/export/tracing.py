"""A module becomes an ONNX graph: PyTorch's dynamo exporter, with named dynamic axes."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export import Dim

from mmtrt.errors import ModelError
from mmtrt.export.exact import exact_constants
from mmtrt.export.passes import run_passes
from mmtrt.export.patches import ORDER, patched
from mmtrt.export.shapes import Ranges, example_sizes, resize
from mmtrt.export.sources import Source
from mmtrt.export.translations import table
from mmtrt.onnx_mapped import with_small_weights

__all__ = ["OPSET", "trace"]

OPSET = 18
"""Opset 23 writes Attention, which TensorRT builds for few head sizes; 18 has always built."""


def trace(
    source: Source,
    ranges: Ranges,
    folder: Path,
    *,
    opset: int,
    warn: Callable[[str], None],
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[onnx.ModelProto, Ranges]:
    """Export at the examples' sizes; return the model and the ranges, narrowed to what PyTorch proved.

    `folder` takes the exporter's own files, where the model's large weights stay as external data. `tell` hears each
    patch and translation that the model needed. ModelError where the exporter fails, with the innermost reason and the
    line of the model that it names.
    """
    sizes = {
        # Sizes 0 and 1 are special to PyTorch: it would make them constants.
        name: min(max(size, 2), ranges[name][2]) if ranges[name][2] > 1 else size
        for name, size in example_sizes(source).items()
    }
    feeds = {name: torch.from_numpy(array) for name, array in resize(source, sizes).items()}
    dims = {
        name: Dim(_identifier(name), min=span[0], max=span[2]) for name, span in ranges.items() if span[0] < span[2]
    }
    shapes = {
        name: {axis: dims[size] for axis, size in source.axes.get(name, {}).items() if size in dims} for name in feeds
    }
    with _quiet(), exact_constants():
        program, applied = _program(source, feeds, shapes, opset)
        for name in applied:
            tell(name)
        limits = {dim.__name__: ranges[name][2] for name, dim in dims.items()}
        run_passes(program.model, limits, lambda name: tell(f"pass {name}"))
        path = folder / "traced.onnx"
        # Tensor by tensor: a message with all weights inside would be in memory, and once more when it is read.
        program.save(str(path), external_data=True, keep_initializers_as_inputs=False)
    model = with_small_weights(onnx.load(str(path), load_external_data=False), folder)
    return model, _proved(source, program, ranges, warn)


def _program(
    source: Source, feeds: Mapping[str, torch.Tensor], shapes: Mapping[str, Any], opset: int
) -> tuple[torch.onnx.ONNXProgram, list[str]]:
    """Export with all patches, else with one of those that found something left out; return what was applied.

    What a patch replaces may be what a module insists on: no mend may stand in the way of an export.
    """
    told: list[str] = []
    try:
        return _exported(source, feeds, shapes, opset, told), _once(told)
    except Exception as error:
        for name in [name for name in ORDER if f"patch {name}" in told]:
            others: list[str] = []
            with contextlib.suppress(Exception):
                return _exported(source, feeds, shapes, opset, others, without={name}), _once(others)
        raise ModelError(
            f"{source.reference} can't be exported: {_reason(error)}",
            fix="The line of the model that is named needs another formulation; control flow on values and "
            "sizes that depend on values are the usual causes.",
        ) from error


def _once(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _exported(
    source: Source,
    feeds: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Any],
    opset: int,
    told: list[str],
    without: Container[str] = (),
) -> torch.onnx.ONNXProgram:
    with patched(source.module, lambda name: told.append(f"patch {name}"), without):
        program = torch.onnx.export(
            source.module,
            (),
            kwargs=dict(feeds),
            dynamo=True,
            opset_version=opset,
            input_names=list(feeds),
            output_names=list(source.outputs) if source.outputs else None,
            dynamic_shapes=dict(shapes),
            verbose=False,
            custom_translation_table=table(lambda name: told.append(f"translation {name}")),
        )
    assert program is not None  # noqa: S101 -- dynamo=True always returns one
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and its notes on packages that nobody asked for out of the terminal."""
    names = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # Where it fails it prints whole graphs.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "size_" + "".join(c if c.isalnum() else "_" for c in name)


def _reason(error: BaseException) -> str:
    # The exporter wraps what went wrong in advice; the innermost cause is what the user must read.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line for line in lines if line.startswith("File ") and "/torch/" not in line]
    return " | ".join(dict.fromkeys([f"{type(error).__name__}: {lines[0] if lines else ''}", *own[-1:]]))


def _proved(source: Source, program: torch.onnx.ONNXProgram, ranges: Ranges, warn: Callable[[str], None]) -> Ranges:
    """Narrow the ranges to the constraints that PyTorch's symbolic shapes came out with."""
    exported: Any = program.exported_program
    if exported is None:
        return ranges
    proved = dict(ranges)
    for symbol, axis_name in _symbols(source, exported).items():
        if symbol not in exported.range_constraints or axis_name not in proved:
            continue
        bound = exported.range_constraints[symbol]
        low, opt, high = proved[axis_name]
        lowest, highest = max(low, _number(bound.lower, low)), min(high, _number(bound.upper, high))
        # PyTorch counts 0 and 1 as special: a lower bound of 2 does not say that 1 was refused.
        lowest = low if lowest == 2 else lowest
        if (lowest, highest) == (low, high):
            continue
        what = f"PyTorch proved {axis_name} to lie in {lowest} to {highest}"
        if axis_name in source.ranges:
            raise ModelError(
                f"{source.reference}: {what}, the range is {low} to {high}",
                fix=f"Narrow the range of {axis_name!r}, or look for a condition on its size in the model.",
            )
        warn(f"{what}; its range is narrowed from {low} to {high}")
        proved[axis_name] = (lowest, min(max(opt, lowest), highest), highest)
    return proved


def _number(value: Any, default: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return default  # unbounded


def _symbols(source: Source, exported: Any) -> Mapping[Any, str]:
    """Map PyTorch's symbols to the names of the axes on which they stand."""
    found: dict[Any, str] = {}
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    for name, named in source.axes.items():
        value: Any = placeholders[name].meta.get("val") if name in placeholders else None
        for axis, size_name in named.items():
            size: Any = value.shape[axis] if isinstance(value, torch.Tensor) else None
            if isinstance(size, torch.SymInt):
                found[size.node.expr] = size_name
    return found
