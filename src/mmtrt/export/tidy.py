"""What the exporter leaves in a graph, brought to what mmtrt promises.

1. Each node keeps the module that it came from (`mmtrt.module`) and the line (`mmtrt.source`, without the
   machine's folders); the exporter's other notes, often a tenth of the file, go.
2. Values keep their shapes; doc strings go.
3. Names of dynamic axes are those that the user gave.
4. An output that is an input or a weight as it came, or that is given twice, gets an Identity and a name of its own.
"""

from __future__ import annotations

import ast
import re
from pathlib import PurePosixPath

import onnx

from mmtrt.export.sources import Source
from mmtrt.onnx_files import MODULE_KEY, SOURCE_KEY

__all__ = ["MODULE_KEY", "SOURCE_KEY", "tidy"]

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def tidy(model: onnx.ModelProto, source: Source) -> None:
    """Apply the rules above in place."""
    graph = model.graph
    _separate_outputs(graph)
    for node in graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        del node.metadata_props[:]
        node.doc_string = ""
        module = _module(notes.get("pkg.torch.onnx.name_scopes", ""))
        line = _line(notes.get("pkg.torch.onnx.stack_trace", ""))
        if module:
            node.metadata_props.add(key=MODULE_KEY, value=module)
        if line:
            node.metadata_props.add(key=SOURCE_KEY, value=line)
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
        value.doc_string = ""
    constants = {tensor.name for tensor in graph.initializer}
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    kept = [value for value in graph.value_info if value.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    del graph.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    graph.name = source.name
    model.producer_name = "mmtrt"
    model.producer_version = ""
    _rename_axes(model, source)


def _module(scopes: str) -> str:
    """Return the innermost module's path: the last scope is the operation itself."""
    try:
        names = ast.literal_eval(scopes)
    except (ValueError, SyntaxError):
        return ""
    paths = [name for name in names[:-1] if name]
    return "" if not paths or paths[0].startswith("_empty_nn_module") else paths[-1]


def _line(trace: str) -> str:
    frames = [(file, int(line)) for file, line in _FRAME.findall(trace) if "/torch/" not in f"/{file}"]
    if not frames:
        return ""
    file, line = frames[-1]
    # Two folders tell a reader enough, and nothing of the machine that it was exported on.
    return f"{PurePosixPath(*PurePosixPath(file).parts[-2:])}:{line}"


def _separate_outputs(graph: onnx.GraphProto) -> None:
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    copies = {name for node in graph.node for name in node.output if name in given}
    taken = given | {name for node in graph.node for name in node.output}
    seen: set[str] = set()
    for output in graph.output:
        source = output.name
        if source in given or source in seen:
            output.name = next(f"{source}_out{n}" for n in range(1, len(taken) + 2) if f"{source}_out{n}" not in taken)
            taken.add(output.name)
            name = f"{output.name}_identity"
            graph.node.append(onnx.helper.make_node("Identity", [source], [output.name], name=name))
        seen.add(output.name)
    # The exporter itself may have written such an Identity, under the input's own name.
    kept = [node for node in graph.node if not (node.op_type == "Identity" and node.output[0] in copies)]
    del graph.node[:]
    graph.node.extend(kept)


def _rename_axes(model: onnx.ModelProto, source: Source) -> None:
    """Rename symbols where the exporter chose another name than the user's."""
    renamed: dict[str, str] = {}
    for value in model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            wanted = source.axes.get(value.name, {}).get(axis)
            if wanted and dim.dim_param:
                renamed[dim.dim_param] = wanted
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]
