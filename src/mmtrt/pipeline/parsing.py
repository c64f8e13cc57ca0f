"""TensorRT's parser asked about an export: each node that it refuses, by module, line and operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from mmtrt.engine.build import mend, reason
from mmtrt.engine.builder import Refusal
from mmtrt.engine.parsing import parse_model
from mmtrt.errors import MachineError, MeasurementError
from mmtrt.export.findings import Finding
from mmtrt.export.tidy import MODULE_KEY, SOURCE_KEY
from mmtrt.onnx_files import data_files, open_model

__all__ = ["not_asked", "parser_findings", "parsers_here"]

_PACKAGES = ("tensorrt", "tensorrt-rtx")


def parsers_here() -> dict[str, str]:
    """Return the TensorRT packages that are installed, with their versions; none of them is imported."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def parser_findings(path: Path) -> Iterator[Finding]:
    """Yield a finding for each node that the parser refuses; MachineError or MeasurementError where none answers."""
    model = open_model(path)
    with _without_weights(model, path) as light:
        parsed = parse_model(light)
    notes = {node.name: {entry.key: entry.value for entry in node.metadata_props} for node in model.graph.node}
    for refusal in parsed.refusals:
        yield _refused(parsed.parser, refusal, notes.get(refusal.node, {}))


def not_asked(error: MachineError | MeasurementError, path: Path) -> Finding:
    """Return the finding that the parser could not be asked, or ended without an answer."""
    if isinstance(error, MachineError):
        return Finding(
            kind="parser",
            what=f"TensorRT's parser was not asked: {error.message}",
            where=path.name,
            fix=error.fix or "`mmtrt doctor` says what this machine lacks.",
            severity="note",
        )
    return Finding(
        kind="parser",
        what=f"{error.message}\non {path.name}",
        where=path.name,
        fix="Export with opset 18; if that does not help, halve the module until the part that does it is found.",
        severity="error",
    )


def _refused(parser: str, refusal: Refusal, notes: Mapping[str, str]) -> Finding:
    node = f"node {refusal.node!r} ({refusal.operator or 'operator unknown'})" if refusal.node else "the model"
    place = " at ".join(filter(None, (notes.get(MODULE_KEY), notes.get(SOURCE_KEY))))
    return Finding(
        kind="parser",
        what=f"{parser} refuses {node}{f' of {place}' if place else ''}: {reason(refusal)}",
        where=place or refusal.node,
        fix=mend(refusal),
        severity="error",
    )


@contextmanager
def _without_weights(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Give a file of the graph whose weights are external data: in one message, the parser would hold them twice."""
    with TemporaryDirectory(prefix="mmtrt-parse-") as folder:
        for name in data_files(model, path):
            link = Path(folder, name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.parent.absolute() / name)
        light = Path(folder, f"{path.name}.parsed")
        light.write_bytes(model.SerializeToString())
        yield light
