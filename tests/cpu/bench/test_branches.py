from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from graphs import model, node

from mmtrt.bench.branches import branches_of, nodes_of
from mmtrt.onnx_files import MODULE_KEY, model_spec, open_model
from mmtrt.tensors import ModelSpec, TensorSpec

W = np.eye(4, dtype=np.float32)
PAIR: dict[str, list[int | str]] = {"a": ["batch", 4], "b": ["batch", 4]}


def of_module(made: onnx.NodeProto, module: str) -> onnx.NodeProto:
    made.metadata_props.add(key=MODULE_KEY, value=module)
    return made


def branches(
    nodes: list[onnx.NodeProto],
    outputs: tuple[str, ...],
    inputs: dict[str, list[int | str]] | None = None,
    modalities: dict[str, tuple[str, ...]] | None = None,
) -> dict[str, str]:
    given = inputs or PAIR
    made = model(nodes, given, {name: ["batch", 4] for name in outputs}, {"w": W})
    specs = tuple(TensorSpec(name=name, dtype="float32", shape=tuple(shape)) for name, shape in given.items())
    spec = ModelSpec(inputs=specs, outputs=(), modalities=modalities or {})
    return {name.partition("_")[0]: branch for name, branch in branches_of(made, spec).items()}


TOWERS = [node("MatMul", ["a", "w"], "x"), node("MatMul", ["b", "w"], "y")]
FUSED = [*TOWERS, node("Add", ["x", "y"], "z")]


def test_two_heads_part_behind_the_fusion() -> None:
    found = branches([*FUSED, node("Relu", ["z"], "one"), node("Tanh", ["z"], "two")], ("one", "two"))
    assert found == {"x": "a", "y": "b", "z": "fusion", "one": "head:one", "two": "head:two"}


def test_inputs_of_one_modality_are_one_branch() -> None:
    inputs: dict[str, list[int | str]] = {"ids": ["batch", 4], "mask": ["batch", 4], "image": ["batch", 4]}
    nodes = [
        node("Mul", ["ids", "mask"], "x"),
        node("Relu", ["image"], "y"),
        node("Add", ["x", "y"], "one"),
        node("Relu", ["one"], "two"),
    ]
    found = branches(nodes, ("one", "two"), inputs, {"text": ("ids", "mask"), "image": ("image",)})
    # `two` is made of `one`: nothing but the last step is for it alone.
    assert found == {"x": "text", "y": "image", "one": "fusion", "two": "head:two"}


def test_towers_that_never_meet_have_no_fusion() -> None:
    assert branches(TOWERS, ("x", "y")) == {"x": "a", "y": "b"}


def test_a_size_that_is_taken_from_elsewhere_is_no_fusion() -> None:
    nodes = [
        node("Shape", ["b"], "size"),
        node("Reshape", ["a", "size"], "x"),
        node("MatMul", ["b", "w"], "y"),
        node("Add", ["x", "y"], "z"),
    ]
    found = branches(nodes, ("z",))
    assert (found["size"], found["x"], found["z"]) == ("b", "a", "fusion")


def test_what_no_input_reaches_is_a_constant() -> None:
    assert branches([node("Relu", ["w"], "c"), node("MatMul", ["a", "c"], "x")], ("x",))["c"] == "constant"


def test_the_head_of_a_model_with_one_output_is_its_last_module() -> None:
    nodes = [
        of_module(node("MatMul", ["a", "w"], "x"), "image_encoder.layer"),
        of_module(node("MatMul", ["b", "w"], "y"), "text_encoder.layer"),
        of_module(node("Add", ["x", "y"], "z"), "fusion.merge"),
        of_module(node("MatMul", ["z", "w"], "h"), "classifier.0"),
        of_module(node("Relu", ["h"], "out"), "classifier.1"),
    ]
    found = branches(nodes, ("out",))
    assert found == {"x": "a", "y": "b", "z": "fusion", "h": "head:out", "out": "head:out"}


def test_a_last_module_that_modalities_meet_in_is_no_head() -> None:
    nodes = [
        of_module(node("MatMul", ["a", "w"], "x"), "image_encoder"),
        of_module(node("MatMul", ["b", "w"], "y"), "text_encoder"),
        of_module(node("Add", ["x", "y"], "z"), "mixer"),
        of_module(node("Relu", ["z"], "r"), "decoder"),
        of_module(node("Add", ["r", "x"], "out"), "decoder"),
    ]
    assert branches(nodes, ("out",))["out"] == "fusion"


def test_what_is_fused_for_one_output_alone_is_no_head() -> None:
    nodes = [
        of_module(node("MatMul", ["a", "w"], "x"), "image_encoder"),
        of_module(node("MatMul", ["b", "w"], "y"), "history"),
        of_module(node("Add", ["x", "y"], "z"), "fusion"),
        of_module(node("MatMul", ["z", "w"], "click"), "clicks"),
        of_module(node("Relu", ["y"], "department"), "department"),
    ]
    found = branches(nodes, ("click", "department"))
    assert found == {"x": "a", "y": "b", "z": "fusion", "click": "head:click", "department": "b"}


def test_a_model_of_one_modality_has_heads_behind_its_fork() -> None:
    inputs: dict[str, list[int | str]] = {"image": ["batch", 4]}
    nodes = [node("MatMul", ["image", "w"], "x"), node("Relu", ["x"], "boxes"), node("Tanh", ["x"], "classes")]
    found = branches(nodes, ("boxes", "classes"), inputs)
    assert found == {"x": "image", "boxes": "head:boxes", "classes": "head:classes"}


def test_what_a_subgraph_takes_from_around_it_counts() -> None:
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "y"], ["inside"], name="inside")],
        "then",
        [],
        [onnx.helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, ["batch", 4])],
    )
    choose = onnx.helper.make_node("If", ["yes"], ["out"], name="out_If", then_branch=inner, else_branch=inner)
    made = model(
        [*TOWERS, choose],
        {**PAIR, "yes": []},
        {"out": ["batch", 4]},
        {"w": W},
        dtypes={"yes": onnx.TensorProto.BOOL},
    )
    spec = ModelSpec(
        inputs=tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in ("a", "b", "yes")), outputs=()
    )
    assert branches_of(made, spec)["out_If"] == "fusion"


def test_an_exported_model_has_its_branches(tiny: Path) -> None:
    proto = open_model(tiny)
    known = nodes_of(proto, model_spec(proto))
    by_module = {(known.modules.get(name, ""), known.ops[name]): branch for name, branch in known.branches.items()}
    assert by_module["stem", "Conv"] == "image"
    assert by_module["block", "Conv"] == "image"
    assert by_module["norm", "LayerNormalization"] == "text"
    assert by_module["hidden", "Gemm"] == "fusion"
    assert by_module["answer", "Gemm"] == "head:answer"
    assert by_module["match", "Gemm"] == "head:match"


def test_nodes_without_a_name_are_called_by_what_they_give() -> None:
    made = model(TOWERS, PAIR, {"x": ["batch", 4], "y": ["batch", 4]}, {"w": W})
    for each in made.graph.node:
        each.name = ""
    assert set(nodes_of(made, model_spec(made)).ops) == {"MatMul:x", "MatMul:y"}
