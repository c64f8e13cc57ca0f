"""A configuration, read by Triton's own protobuf, against the ONNX that it tells of: by onnx's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from fake_triton import model_dims, parse, type_of

# https://github.com/triton-inference-server/server: the table "Datatypes" of its model configuration.
ONNX_TYPES = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.UINT16: "UINT16",
    onnx.TensorProto.UINT32: "UINT32",
    onnx.TensorProto.UINT64: "UINT64",
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.INT16: "INT16",
    onnx.TensorProto.INT32: "INT32",
    onnx.TensorProto.INT64: "INT64",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
}


def hold(text: str, model: onnx.ModelProto) -> Any:
    """Hold each input and output, in the graph's order, by name, type and shape; return the configuration."""
    config = parse(text)
    for told, graph in ((config.input, model.graph.input), (config.output, model.graph.output)):
        assert [tensor.name for tensor in told] == [value.name for value in graph]
        for tensor, value in zip(told, graph, strict=True):
            assert type_of(tensor) == ONNX_TYPES[value.type.tensor_type.elem_type]
            shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in value.type.tensor_type.shape.dim]
            assert model_dims(config, tensor) == shape, tensor.name
    return config


def hold_folder(folder: Path) -> Any:
    """Hold a model of a repository in each of its versions."""
    text = (folder / "config.pbtxt").read_text(encoding="ascii")
    versions = [path for path in folder.iterdir() if path.name.isdecimal()]
    assert versions
    for version in versions:
        config = hold(text, onnx.load(version / parse(text).default_model_filename))
    return config
