"""A plugin library that TensorRT-RTX put into an engine is found there by its bytes alone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mmtrt.bundle.host_code import check_engine_code
from mmtrt.errors import InputError

onnx = pytest.importorskip("onnx")
trt: Any = pytest.importorskip("tensorrt_rtx")

SOURCE = """
#include <stdint.h>
void setLoggerFinder(void* finder) { (void)finder; }
void* const* getCreators(int32_t* count) { static void* none[1]; *count = 0; return none; }
"""


def plan(libraries: list[str]) -> bytes:
    """An engine of one layer, built ahead of time."""
    values = [onnx.helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.plugins_to_serialize = libraries
    return bytes(builder.build_serialized_network(network, config))


def test_a_library_in_an_engine_is_found(tmp_path: Path) -> None:
    if (gcc := shutil.which("gcc")) is None:
        pytest.skip("no gcc on this machine")
    source, library = tmp_path / "plugin.c", tmp_path / "libplugin.so"
    source.write_text(SOURCE)
    subprocess.run([gcc, "-shared", "-fPIC", "-o", library, source], check=True)
    engine = tmp_path / "model.engine"

    engine.write_bytes(plan([]))
    check_engine_code(engine)
    engine.write_bytes(plan([str(library)]))
    with pytest.raises(InputError, match="carries native code"):
        check_engine_code(engine)
