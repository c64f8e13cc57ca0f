"""ONNX files: loaded safely, written whole, and what their metadata says.

External data is refused outside the model's own folder, whatever the loader below allows: absolute paths,
`..` and symbolic links.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
import onnx.checker

from mmtrt.artifacts import file_digest, finite_number, key_of, whole_file
from mmtrt.errors import ModelError
from mmtrt.onnx_mapped import MAPPED_BYTES, is_external, mapped, raw_pieces, weight_bytes, write_model
from mmtrt.tensors import ModelSpec, TensorSpec

__all__ = [
    "BUDGET_KEY",
    "EMBED_LIMIT",
    "MODULE_KEY",
    "SOURCE_KEY",
    "SPEC_KEY",
    "data_files",
    "elem_types",
    "graph_spec",
    "load_model",
    "metadata_of",
    "model_budget",
    "model_digest",
    "model_spec",
    "open_model",
    "save_model",
    "set_metadata",
]

SPEC_KEY = "mmtrt.spec"
MODULE_KEY = "mmtrt.module"
SOURCE_KEY = "mmtrt.source"
"""Of a node: the PyTorch module that it came from, and the line (`file.py:123`)."""
BUDGET_KEY = "mmtrt.budget"
"""The parity budget, as JSON, `{"output:metric": bound}`: it travels with the model that it judges."""
EMBED_LIMIT = 1_800_000_000
"""Bytes of weights above which they are kept in a file beside the ONNX: protobuf ends at 2 GiB."""


def open_model(path: Path) -> onnx.ModelProto:
    """Open an ONNX file without its weights: the large ones are external data, in the file itself where they were.

    ModelError that says what is wrong with the file and how to mend it. `path.parent` is where external data lie.
    """
    if not path.exists():
        raise ModelError(f"there is no file {path}", fix="Check the path; `mmtrt export` makes an ONNX file.")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not an ONNX file")
    try:
        # Behind a link, the file's own name would be one outside its folder.
        model = onnx.load(str(path), load_external_data=False) if path.is_symlink() else mapped(path)
    except Exception as error:
        raise ModelError(
            f"{path} is no ONNX file, or it is cut off: {_first_line(error)}",
            fix="Export it again, or copy it again in binary mode.",
        ) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} is no ONNX file: it holds no graph", fix="Export the model again.")
    data_files(model, path)
    try:
        _check(model, path)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path} is no valid ONNX: {_first_line(error)}", fix="Export it again.") from error
    return model


def load_model(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with all its weights, as `open_model` opens it; ModelError as there."""
    model = open_model(path)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except Exception as error:
        raise ModelError(
            f"{path}: its external weights can't be read: {_first_line(error)}", fix="Export it again."
        ) from error
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
    return model


def _check(model: onnx.ModelProto, path: Path) -> None:
    """Run ONNX's checker, which copies weights several times over: the large ones are inputs to it."""
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in _node_tensors(model.graph.node)):
        onnx.checker.check_model(str(path))
        return
    onnx.checker.check_model(_without_weights(model))


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if field.is_repeated:
            getattr(light, field.name).extend(value)
        else:
            setattr(light, field.name, value)
    own = model.graph
    light.graph.name = own.name
    for name in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(light.graph, name).extend(getattr(own, name))
    known = {value.name for value in own.input}
    for tensor in own.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() < 2 * MAPPED_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in known:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _tensors(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    sparse = [part for tensor in graph.sparse_initializer for part in (tensor.values, tensor.indices)]
    return [*graph.initializer, *sparse, *_node_tensors(graph.node)]


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> list[onnx.TensorProto]:
    found: list[onnx.TensorProto] = []
    for attribute in (a for node in nodes for a in node.attribute):
        found += [attribute.t, *attribute.tensors]
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            found += [sparse.values, sparse.indices]
        for graph in (attribute.g, *attribute.graphs):
            found += _tensors(graph)
    return found


def data_files(model: onnx.ModelProto, path: Path) -> set[str]:
    """Return the files of external data, relative to the model's folder, in which each is proven to lie.

    Of a model that `open_model` opened its own file may be one. ModelError names the weight that lies elsewhere.
    """
    locations: set[str] = set()
    tensors = _tensors(model.graph)
    for function in model.functions:
        tensors += _node_tensors(function.node)
    for tensor in tensors:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        outside = posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts
        if not location or outside:
            raise ModelError(
                f"{path}: weight {tensor.name!r} lies outside the model's folder: {location!r}",
                fix="Refused, since such a file could read anything. Export it with its data beside it.",
            )
        at = path.parent
        for part in posix.parts:
            at /= part
            if at.is_symlink():
                raise ModelError(
                    f"{path}: weight {tensor.name!r} lies behind a symbolic link: {at}",
                    fix="Refused, since a link can point anywhere. Put the file itself there.",
                )
        if not at.is_file():
            raise ModelError(
                f"{path}: its weights are missing: there is no file {at}",
                fix="Copy the data file along with the .onnx.",
            )
        needed = _end(path, tensor, entries)
        if at.stat().st_size < needed:
            raise ModelError(
                f"{path}: {at} is cut off: {at.stat().st_size} bytes where {needed} are needed",
                fix="Copy the data file again, in binary mode.",
            )
        locations.add(location)
    return locations


_PACKED = {"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"}


def _end(path: Path, tensor: onnx.TensorProto, entries: Mapping[str, str]) -> int:
    """Return where a weight ends in its data file; ModelError where that does not fit its type and shape."""
    offset, length = entries.get("offset", "0"), entries.get("length")
    if not offset.isdecimal() or not (length or "0").isdecimal():
        raise ModelError(
            f"{path}: weight {tensor.name!r} has offset {offset!r} and length {length!r}", fix="Export it again."
        )
    if onnx.TensorProto.DataType.Name(tensor.data_type) in _PACKED:
        return int(offset) + int(length or 0)
    size: int = math.prod(tensor.dims) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if length is not None and int(length) != size:
        raise ModelError(
            f"{path}: weight {tensor.name!r} needs {size} bytes, and its length is {length}", fix="Export it again."
        )
    return int(offset) + int(size)


def model_digest(path: Path) -> str:
    """SHA-256 over the ONNX file and its external data."""
    locations = data_files(open_model(path), path) - {path.name}
    if not locations:
        return file_digest(path)
    return key_of({"onnx": file_digest(path), **{name: file_digest(path.parent / name) for name in locations}})


def save_model(model: onnx.ModelProto, path: Path, folder: Path | None = None) -> None:
    """Check and write an ONNX file, whole or not at all; large weights go to `<name>.data` beside it.

    Weights that are external data in `folder` come along, without being in memory. Equal models give equal bytes.
    """
    if sum(map(weight_bytes, model.graph.initializer)) > EMBED_LIMIT:
        _save_weights(model, path, folder)
        folder = None
    else:
        try:
            onnx.checker.check_model(_without_weights(model))
        except onnx.checker.ValidationError as error:
            raise ModelError(
                f"{path.name}: what was made is no valid ONNX: {_first_line(error)}",
                fix="An output that is an input as it came, or that has an input's name, is the usual cause.",
            ) from error
    with whole_file(path) as part, part.open("wb") as stream:
        write_model(model, folder, stream)


def _save_weights(model: onnx.ModelProto, path: Path, folder: Path | None) -> None:
    """Write large weights to `<name>.data` beside the model that is to be at `path`, and make them external to it."""
    data = f"{path.name}.data"
    with whole_file(path.parent / data) as weights, weights.open("wb") as stream:
        for tensor in model.graph.initializer:
            if (len(tensor.raw_data) < 1024 and not is_external(tensor)) or (is_external(tensor) and folder is None):
                continue
            # Engines map weights straight from the file; a page is what they can map.
            stream.seek(-(-stream.tell() // 4096) * 4096)
            offset = stream.tell()
            stream.writelines(raw_pieces(tensor, folder or path.parent))
            length = stream.tell() - offset
            tensor.ClearField("raw_data")
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", data), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata of a model as a dict."""
    return {entry.key: entry.value for entry in model.metadata_props}


def set_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Add or replace entries of a model's metadata; they are kept in the order of their keys."""
    merged = {**metadata_of(model), **entries}
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=key, value=merged[key])


def model_spec(model: onnx.ModelProto) -> ModelSpec:
    """Return what the model says of itself, or what its graph shows where it was not exported by mmtrt."""
    text = metadata_of(model).get(SPEC_KEY)
    shown = graph_spec(model)
    if text is None:
        return shown
    try:
        told = ModelSpec.from_json(json.loads(text))
        for name, span in told.ranges.items():
            if not all(isinstance(size, int) for size in span) or not 0 < span[0] <= span[1] <= span[2]:
                raise ValueError(f"the range of {name!r} is {list(span)}")  # noqa: TRY301
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ModelError(f"the model's {SPEC_KEY} metadata can't be read: {error}", fix="Export it again.") from error
    if told.inputs != shown.inputs or tuple(t.name for t in told.outputs) != tuple(t.name for t in shown.outputs):
        # The graph was edited by another tool: what it is now counts, what it was for stays.
        names = {dim for t in shown.inputs for dim in t.shape if isinstance(dim, str)}
        return ModelSpec(
            inputs=shown.inputs,
            outputs=shown.outputs,
            modalities={
                m: tuple(i for i in names_ if i in {t.name for t in shown.inputs})
                for m, names_ in told.modalities.items()
            },
            ranges={name: span for name, span in told.ranges.items() if name in names},
            limits=shown.limits,
            masks={n: value for n, value in told.masks.items() if n in {t.name for t in shown.inputs}},
            heads={n: kind for n, kind in told.heads.items() if n in {t.name for t in shown.outputs}},
            source=told.source,
            digest=told.digest,
            versions=told.versions,
        )
    return told


def model_budget(model: onnx.ModelProto) -> dict[str, float]:
    """Return the parity budget that the model carries, empty where it carries none; ModelError where it is broken."""
    try:
        found = json.loads(metadata_of(model).get(BUDGET_KEY, "{}"))
        return {str(key): finite_number(bound) for key, bound in found.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelError(
            f"the model's {BUDGET_KEY} metadata can't be read: {error}", fix="Give the budget with --budget."
        ) from error


def graph_spec(model: onnx.ModelProto) -> ModelSpec:
    """Read inputs, outputs and the limits of integer inputs off the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor_spec(value) for value in model.graph.input if value.name not in constants)
    outputs = tuple(_tensor_spec(value) for value in model.graph.output)
    return ModelSpec(inputs=inputs, outputs=outputs, limits=_limits(model, inputs))


def elem_types() -> dict[int, str]:
    """ONNX element types to numpy names, bfloat16 and the 8-bit floats by their ONNX names."""
    named = {}
    for number in onnx.TensorProto.DataType.values():
        if number == onnx.TensorProto.UNDEFINED:
            continue
        named[number] = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(number)))
    return named


_ELEM = elem_types()


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape: list[int | str] = []
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value"):
            shape.append(dim.dim_value)
        else:
            shape.append(dim.dim_param or f"{value.name}_{axis}")
    return TensorSpec(name=value.name, dtype=_ELEM.get(tensor.elem_type, "object"), shape=tuple(shape))


_PASS_THROUGH = {"Cast", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Flatten"}


def _limits(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...]) -> dict[str, tuple[int, int]]:
    """Table sizes that integer inputs index: a token that the embedding lacks is told before it crashes."""
    rows = {t.name: t.dims[0] for t in model.graph.initializer if t.dims}
    aliases = {t.name: t.name for t in inputs if t.dtype.startswith(("int", "uint"))}
    limits: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        if node.op_type in _PASS_THROUGH and node.input and node.input[0] in aliases:
            aliases[node.output[0]] = aliases[node.input[0]]
        if node.op_type != "Gather" or len(node.input) < 2 or node.input[1] not in aliases:
            continue
        axis: Any = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if axis == 0 and node.input[0] in rows:
            name, size = aliases[node.input[1]], rows[node.input[0]]
            limits[name] = (0, min(limits.get(name, (0, size - 1))[1], size - 1))
    return limits
