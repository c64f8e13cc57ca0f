from __future__ import annotations

import json

import pytest

from mmtrt.engine.layers import EngineLayer, LayerTensor, parse_inspector, parse_layers, summarise

FORMAT = "Strides: [8,1], StrideOrder: [1,0], Datatype: {}, Format: (Linear) Row major linear format"


def tensor(name: str, dims: str, dtype: str) -> str:
    return f"{{ Name: {name}, Dimensions: [{dims}], {FORMAT.format(dtype)} }}"


def line(name: str, kind: str, inputs: str, constants: str, outputs: str, *, nodes: str = "") -> str:
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], Constants: [ {constants}], "
        f"Outputs: [ {outputs}], TacticName: t, StreamId: 0, Metadata: {nodes}"
    )


X8 = tensor("x, with a comma", "-1,8", "Int8")
XF = tensor("x", "-1,8", "Float")
XH = tensor("x", "-1,8", "Half")
W8 = tensor("w", "8,16", "Int8")
WF = tensor("w", "8,16", "Float")
SCALE = tensor("s", "1,16", "Float")
Y = tensor("y", "-1,16", "Float")
EMPTY = "Name: s, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, Metadata: "


def block(*lines: str) -> str:
    return "\n".join(["Layers:", *lines, "", "I/O Tensors:", " Name: x, IOMode: Input"])


def test_a_block_is_read_up_to_the_tensors() -> None:
    text = block(
        EMPTY, line("/fc/MatMul_1", "gemm", X8, f"{W8}, {SCALE}", Y, nodes="[ONNX Layer: /fc[0]/q][ONNX Layer: /fc]")
    )
    layers = parse_layers(text)
    assert [layer.role for layer in layers] == ["shape", "gemm"]
    gemm = layers[1]
    assert gemm.nodes == ("/fc[0]/q", "/fc")
    assert gemm.inputs == (LayerTensor(name="x, with a comma", dtype="int8", dims=(-1, 8)),)
    assert [constant.dtype for constant in gemm.constants] == ["int8", "fp32"]
    assert gemm.to_json()["precision"] == "int8"


@pytest.mark.parametrize(
    ("layer", "role", "precision"),
    [
        (line("a", "gemm", X8, W8, Y), "gemm", "int8"),
        (line("a", "gemm", f"{X8}, {X8}", "", Y), "gemm", "int8"),
        (line("a", "gemm", XF, W8, Y), "gemm", "fp32"),
        (line("a", "gemm", X8, WF, Y), "gemm", "fp32"),
        (line("a", "gemm", XH, f"{SCALE}", Y), "gemm", "fp16"),
        (line("a", "correlation", f"{X8}, {XF}", f"{W8}, {SCALE}", Y), "conv", "int8"),
        (line("__myl_FcAddRelu_myl0_1", "runtime_fusion", X8, W8, Y), "gemm", "int8"),
        (line("__myl_MoveReplConc_myl0_2", "kgen", X8, "", Y), "move", "int8"),
        (line("__myl_MulMinMaxRounCast_myl0_2", "kgen", XF, SCALE, Y), "other", "fp32"),
        (line("a", "deconv", XF, WF, Y), "conv", "fp32"),
        (line("a", "maxpool", X8, "", Y), "other", "int8"),
        (line("a", "Reformat", XF, "", Y), "move", "fp32"),
        (line("a", "kgen", XF, "", Y), "other", "fp32"),
        (EMPTY, "shape", "unknown"),
    ],
)
def test_what_a_layer_does_and_in_what(layer: str, role: str, precision: str) -> None:
    (parsed,) = parse_layers(block(layer))
    assert (parsed.role, parsed.precision) == (role, precision)


def test_the_summary_counts_kernels_and_not_host_arithmetic() -> None:
    layers = parse_layers(
        block(
            EMPTY,
            line("a", "gemm", X8, W8, Y),
            line("b", "gemm", XF, WF, Y),
            line("c", "correlation", X8, W8, Y),
            line("__myl_Conc_1", "kgen", X8, "", Y),
        )
    )
    summary = summarise(layers)
    assert (summary.kernels, summary.moves, summary.int8) == (4, 1, 2)
    assert summary.to_json() == {"kernels": 4, "moves": 1, "gemm": {"fp32": 1, "int8": 1}, "conv": {"int8": 1}}


@pytest.mark.parametrize(
    "text",
    ["Nothing here", block("what is this"), block(line("a", "gemm", "{ Name: x, Dims: [1] }", "", Y))],
)
def test_what_is_not_understood_is_an_error_and_not_less(text: str) -> None:
    with pytest.raises(ValueError, match=r"not understood|no block"):
        parse_layers(text)


def test_the_inspectors_two_dialects() -> None:
    def row(key: str, dtype: str) -> dict[str, object]:
        port = {"Name": "x", "Dimensions": [1, 8], key: dtype}
        return {"Name": "a", "LayerType": "CaskConvolution", "Inputs": [port], "Outputs": [port], "Constants": ["w"]}

    rows = [row("Format/Datatype", "Row major linear FP16 format"), row("Datatype", "Int8")]
    first, second = parse_inspector(json.dumps({"Layers": rows}))
    assert (first.role, first.precision) == ("conv", "fp16")
    assert second.precision == "int8"
    assert first.constants == ()


def test_names_only_are_refused() -> None:
    with pytest.raises(ValueError, match="detailed verbosity"):
        parse_inspector('{"Layers": ["conv1"]}')


def test_a_layer_with_int8_alone_is_int8() -> None:
    port = LayerTensor(name="x", dtype="int8", dims=(1,))
    layer = EngineLayer(name="a", kind="kgen", tactic="", inputs=(), outputs=(port,), constants=(port,))
    assert layer.precision == "int8"
