"""Configurations of any model, read by Triton's own protobuf and held against the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_triton import check_config, parse, warm_up_requests
from held import hold
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2

from mmtrt.errors import BuildError, ModelError, RecipeError
from mmtrt.parts import Port, Wiring
from mmtrt.recipe import Triton
from mmtrt.tensors import ModelSpec, TensorSpec
from mmtrt.triton.config import Served, batch_sizes, model_config
from mmtrt.triton.ensemble import ensemble_config
from mmtrt.triton.pbtxt import Message, Word, text
from mmtrt.triton.shapes import agreed, batching, check_ranges
from mmtrt.triton.warm_up import requests, warm_ups

TYPES = {
    "bool": TensorProto.BOOL,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float16": TensorProto.FLOAT16,
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
}
SIZES = {"batch": (1, 2, 8), "text": (2, 3, 5), "far": (4, 4, 6)}
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=8)
AXES = st.one_of(st.integers(1, 4), st.sampled_from(sorted(SIZES)))


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Models of all kinds: most with a batch, some without, some whose batch is another axis too."""
    names = draw(st.lists(NAMES, min_size=2, max_size=5, unique=True))
    lead = draw(st.sampled_from(["batch", "batch", "batch", 3, None]))

    def tensor(name: str) -> TensorSpec:
        row = tuple(draw(st.lists(AXES, max_size=3)))
        first = draw(AXES) if lead is None else lead
        return TensorSpec(name=name, dtype=draw(st.sampled_from(sorted(TYPES))), shape=(first, *row))

    tensors = tuple(map(tensor, names))
    cut = draw(st.integers(1, len(tensors) - 1))
    low = draw(st.sampled_from([1, 1, 1, 2]))
    return ModelSpec(inputs=tensors[:cut], outputs=tensors[cut:], ranges={**SIZES, "batch": (low, max(low, 2), 8)})


def as_onnx(spec: ModelSpec) -> onnx.ModelProto:
    def values(tensors: tuple[TensorSpec, ...]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(t.name, TYPES[t.dtype], list(t.shape)) for t in tensors]

    return helper.make_model(helper.make_graph([], "graph", values(spec.inputs), values(spec.outputs)))


BACKENDS = st.sampled_from(["onnxruntime", "tensorrt"])


@settings(max_examples=150, deadline=None)
@given(specs(), BACKENDS, st.sampled_from(["auto", "always", "never"]))
def test_a_configuration_tells_what_the_onnx_has(spec: ModelSpec, backend: str, graphs: str) -> None:
    told = Triton(cuda_graphs=graphs)  # type: ignore[arg-type]
    config = hold(text(model_config(Served(name="any", backend=backend, spec=spec, settings=told))), as_onnx(spec))  # type: ignore[arg-type]
    check_config(config, Path("any"))
    shapes = [tensor.shape for tensor in (*spec.inputs, *spec.outputs)]
    batched = (
        spec.ranges["batch"][0] == 1
        and all(shape[0] == "batch" for shape in shapes)
        and not any("batch" in shape[1:] for shape in shapes)
    )
    # Any other size that leads everywhere is as good as a batch, if it may be 1: none of these may.
    assert config.max_batch_size == (8 if batched else 0)
    assert config.HasField("dynamic_batching") == batched
    # A graph serves one shape: where sizes change, it is made for the usual one, and only if that is asked for.
    fixed = not any(isinstance(dim, str) for t in spec.inputs for dim in (t.shape[1:] if batched else t.shape))
    whole = all(len(t.shape) > batched for t in spec.inputs)
    wanted = graphs == "always" or (graphs == "auto" and fixed)
    assert bool(config.optimization.cuda.graph_spec) == (backend == "tensorrt" and wanted and whole)


@settings(max_examples=60, deadline=None)
@given(specs(), st.integers(0, 3))
def test_warm_up_is_what_the_samples_hold(
    tmp_path_factory: pytest.TempPathFactory, spec: ModelSpec, count: int
) -> None:
    folder = tmp_path_factory.mktemp("warm")
    rng = np.random.default_rng(0)

    def sample() -> dict[str, np.ndarray]:
        return {
            t.name: rng.integers(0, 2, [SIZES[d][1] if isinstance(d, str) else d for d in t.shape[1:]]).astype(t.dtype)
            for t in spec.inputs
        }

    samples = [sample() for _ in range(3)]
    batch = batching(spec)
    made = warm_ups(requests(samples, spec, batch, count), spec, batch_sizes(Triton(), batch))
    (folder / "warmup").mkdir()
    for one in made:
        for name, content in one.contents().items():
            assert "/" not in name
            (folder / "warmup" / name).write_bytes(content)
    config = parse(text(model_config(Served(name="any", backend="onnxruntime", spec=spec, warm_up=made))))
    found = list(warm_up_requests(config, folder))
    assert len(found) == (count and count + len(batch_sizes(Triton(), batch)) - 1)
    assert len({warm.name for warm in config.model_warmup}) == len(found)
    for warm, (_, arrays) in zip(config.model_warmup, found, strict=True):
        held = samples[int(warm.name.split("-")[1])]
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            # Alone, or the same row again along a first axis that is always there.
            for row in array:
                np.testing.assert_array_equal(row.reshape(held[tensor.name].shape), held[tensor.name])
            low, _, high = spec.ranges.get(str(tensor.shape[0]), (tensor.shape[0],) * 3)
            assert batch or low <= len(array) <= high


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(blacklist_categories=["Cs"]), max_size=20), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_any_text_and_number_comes_back_as_it_was(name: str, numbers: list[int]) -> None:
    tensor = Message((("name", name), ("dims", numbers), ("data_type", Word("TYPE_FP16")), ("optional", True)))
    config = parse(text(Message((("name", name), ("max_batch_size", 3), ("input", tensor), ("input", Message())))))
    assert (config.name, config.max_batch_size, len(config.input)) == (name, 3, 2)
    assert (config.input[0].name, list(config.input[0].dims)) == (name, numbers)
    assert (config.input[0].data_type, config.input[0].optional) == (model_config_pb2.TYPE_FP16, True)


def spec_of(*shape: int | str, out: tuple[int | str, ...] = ("batch", 2), dtype: str = "float32") -> ModelSpec:
    return ModelSpec(
        inputs=(TensorSpec(name="x", dtype=dtype, shape=shape),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=out),),
        ranges=SIZES,
    )


def config_of(spec: ModelSpec, backend: str = "tensorrt", **told: object) -> Any:
    return parse(text(model_config(Served(name="m", backend=backend, spec=spec, settings=Triton(**told)))))  # type: ignore[arg-type]


def test_settings_are_where_triton_looks_for_them() -> None:
    config = config_of(spec_of("batch", 3), preferred_batch=(4, 2), max_queue_delay_us=700, keep=3, instances=2)
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.version_policy.latest.num_versions == 3
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (
        2,
        model_config_pb2.ModelInstanceGroup.KIND_GPU,
    )
    assert config.optimization.cuda.graphs
    graphs = config.optimization.cuda.graph_spec
    assert [(graph.batch_size, list(graph.input["x"].dim)) for graph in graphs] == [
        (1, [3]),
        (2, [3]),
        (4, [3]),
        (8, [3]),
    ]


def test_an_onnx_may_be_built_by_the_server() -> None:
    asked = {"accelerator": "tensorrt", "engine_cache": "/engines"}
    config = config_of(spec_of("batch", "text"), "onnxruntime", **asked)
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert dict(accelerator.parameters) == {
        "trt_profile_min_shapes": "x:1x2",
        "trt_profile_opt_shapes": "x:2x3",
        "trt_profile_max_shapes": "x:8x5",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/engines",
    }
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    alone = config_of(spec_of("batch", "text"), "onnxruntime", kind="cpu")
    assert not alone.HasField("optimization")
    assert alone.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_CPU


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (spec_of("batch", 3, dtype="bfloat16"), "bfloat16"),
        (spec_of("batch", 3, out=()), "no axes"),
    ],
)
def test_what_triton_has_no_name_for_is_refused(spec: ModelSpec, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        config_of(spec)


@pytest.mark.parametrize(
    ("spec", "told", "words"),
    [
        (spec_of("batch", 3), {"preferred_batch": (9,)}, "at most 8"),
        (spec_of(4, 3, out=(4, 2)), {"preferred_batch": (1,)}, "is always 4"),
        (spec_of("batch", "batch"), {"preferred_batch": (1,)}, "on another axis too"),
        (spec_of("batch", 3, out=("text", 2)), {"preferred_batch": (1,)}, "does not lead with 'batch'"),
        (spec_of("far", 3, out=("far", 2)), {"preferred_batch": (1,)}, "does not begin at 1"),
        (spec_of("batch", 3), {"kind": "cpu"}, "is a TensorRT engine"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(spec: ModelSpec, told: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        config_of(spec, **told)


def test_an_engine_must_be_that_of_the_model() -> None:
    mine = spec_of("batch", 3, out=("batch", "y_1"))
    # An engine may know a size that the ONNX has by name.
    assert agreed(mine, spec_of("b", 3, out=("b", 2)), "it").outputs[0].shape == ("batch", 2)
    others = [
        spec_of("batch", 4),
        spec_of(2, 3),
        spec_of("batch", 3, 3),
        spec_of("batch", 3, dtype="float16"),
        spec_of("batch", 3, out=("batch", 2, 2)),
        ModelSpec(inputs=mine.inputs, outputs=(*mine.outputs, TensorSpec(name="z", dtype="float32", shape=("batch",)))),
    ]
    for other in others:
        with pytest.raises(BuildError, match="the model says"):
            agreed(mine, other, "it")
    narrower = ModelSpec(inputs=mine.inputs, outputs=mine.outputs, ranges={"batch": (1, 2, 4)})
    with pytest.raises(BuildError, match=r"takes \(1, 2, 4\) on axis 0 of 'x'"):
        check_ranges(mine, narrower, "it")
    check_ranges(mine, mine, "it")


def wiring_of(*, out: tuple[int | str, ...] = ("batch", 2), name: str = "answer", again: bool = False) -> Wiring:
    eye, head = Port("eye", "y"), Port("head", "y")
    return Wiring(
        parts={"eye": spec_of("batch", 3, out=out), "head": spec_of(*out, out=("batch", 2))},
        links={Port("head", "x"): eye},
        outputs={name: head, **({"twice": head} if again else {})},
    )


def test_an_ensemble_hands_on_by_name() -> None:
    models = {"eye": "m-eye", "head": "m-head"}
    config = parse(text(ensemble_config("m", wiring_of(), models, version=3, keep=1)))
    check_config(config, Path("m"))
    first, second = config.ensemble_scheduling.step
    assert (first.model_name, first.model_version, dict(first.input_map)) == ("m-eye", 3, {"x": "x"})
    assert dict(second.input_map) == {"x": first.output_map["y"]} == {"x": "eye.y"}
    assert dict(second.output_map) == {"y": "answer"}
    assert config.max_batch_size == 8
    # A part that takes requests as they come: so does the whole, and the first axis is told.
    whole = wiring_of(out=("batch", "batch"))
    config = parse(text(ensemble_config("m", whole, models, version=1, keep=1)))
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, 3])


def test_a_tensor_within_is_never_called_as_one_outside() -> None:
    eye = ModelSpec(
        inputs=(TensorSpec(name="eye.y", dtype="float32", shape=("batch", 3)),),
        outputs=spec_of("batch", 3).outputs,
        ranges=SIZES,
    )
    wiring = Wiring(
        parts={"eye": eye, "head": spec_of("batch", 2)},
        links={Port("head", "x"): Port("eye", "y")},
        outputs={"eye.y_": Port("head", "y")},
    )
    config = parse(text(ensemble_config("m", wiring, {"eye": "a", "head": "b"}, version=1, keep=1)))
    first, second = config.ensemble_scheduling.step
    assert first.output_map["y"] == second.input_map["x"]
    assert len({first.output_map["y"], config.input[0].name, config.output[0].name}) == 3


@pytest.mark.parametrize(
    ("wiring", "words"),
    [(wiring_of(name="x"), "one tensor"), (wiring_of(again=True), "two names")],
)
def test_what_an_ensemble_has_no_name_for_is_refused(wiring: Wiring, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ensemble_config("m", wiring, {"eye": "a", "head": "b"}, version=1, keep=1)


def test_a_tensor_with_a_batch_alone_is_not_handed_to_who_takes_requests_as_they_come() -> None:
    loose = spec_of("batch", out=("batch", 2))
    wiring = Wiring(
        parts={"eye": spec_of("batch", 3, out=("batch",)), "head": loose, "last": spec_of("batch", 2, out=(3, 2))},
        links={Port("head", "x"): Port("eye", "y"), Port("last", "x"): Port("head", "y")},
        outputs={"answer": Port("last", "y")},
    )
    with pytest.raises(ModelError, match=r"eye\.y has a batch axis alone"):
        ensemble_config("m", wiring, {"eye": "a", "head": "b", "last": "c"}, version=1, keep=1)
