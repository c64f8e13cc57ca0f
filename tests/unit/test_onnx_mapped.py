"""An ONNX file opened without its weights is the same model, and a broken one is told as such."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt import onnx_files
from mmtrt.errors import ModelError
from mmtrt.onnx_files import load_model, model_digest, open_model, save_model
from mmtrt.onnx_mapped import MAPPED_BYTES, weight_chunks, with_small_weights


def model_of(sizes: list[int]) -> onnx.ModelProto:
    """A sum of constants of these sizes, of several types."""
    tensors = [
        onnx.numpy_helper.from_array(np.arange(size, dtype=np.float32) * (i + 1), f"w{i}")
        for i, size in enumerate(sizes)
    ]
    names = ["x", *(tensor.name for tensor in tensors)]
    nodes = [onnx.helper.make_node("Concat", names, ["y"], axis=0)]
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 5, 16_383, 16_384, 16_385, 40_000]), max_size=5))
def test_the_weights_are_where_the_skeleton_says(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    proto = model_of(sizes)
    onnx.save(proto, path)
    skeleton = open_model(path)
    assert load_model(path) == proto
    outside = [t for t in skeleton.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    assert len(outside) == sum(4 * size >= MAPPED_BYTES for size in sizes)
    assert skeleton.ByteSize() < MAPPED_BYTES * len(sizes) + 4096


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_that_is_cut_or_changed_is_an_error_or_a_model(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    raw = bytearray(model_of([3, 20_000]).SerializeToString())
    cut = data.draw(st.integers(0, len(raw)))
    places = data.draw(st.lists(st.integers(0, 200), max_size=4))
    for place in places:
        raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[:cut])
    # Anything else than a model or a ModelError fails the test.
    with contextlib.suppress(ModelError):
        load_model(path)


def test_a_link_to_a_model_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    onnx.save(model_of([20_000]), tmp_path / "store" / "blob")
    link = tmp_path / "m.onnx"
    link.symlink_to(tmp_path / "store" / "blob")
    assert load_model(link) == model_of([20_000])
    assert model_digest(link) == model_digest(tmp_path / "store" / "blob")


def test_a_weight_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    proto = model_of([20_000])
    proto.graph.initializer[0].dims[0] = 19_999
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="'w0' needs 79996 bytes"):
        open_model(tmp_path / "m.onnx")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([1, 5, 16_383, 16_384, 40_000]), max_size=5), st.booleans())
def test_weights_go_from_file_to_file_as_if_they_had_been_in_memory(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], apart: bool
) -> None:
    folder = tmp_path_factory.mktemp("m")
    proto = model_of(sizes)
    proto.metadata_props.add(key="after", value="the graph")
    proto.graph.metadata_props.add(key="after", value="the weights")
    whole = proto.SerializeToString(deterministic=True)
    if apart:
        onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="w", size_threshold=0)
        light = onnx.load(folder / "m.onnx", load_external_data=False)
    else:
        onnx.save(proto, folder / "m.onnx")
        light = open_model(folder / "m.onnx")
    values = [np.concatenate(list(weight_chunks(t, folder))) for t in light.graph.initializer]
    assert [v.tolist() for v in values] == [(np.arange(n) * (i + 1)).tolist() for i, n in enumerate(sizes)]
    save_model(with_small_weights(light, folder), folder / "again.onnx", folder)
    assert (folder / "again.onnx").read_bytes() == whole


def test_weights_too_large_for_one_message_go_to_a_file_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "EMBED_LIMIT", 100_000)
    proto = model_of([3, 20_000, 30_000])
    (tmp_path / "from").mkdir()
    onnx.save(proto, tmp_path / "from" / "m.onnx")
    save_model(open_model(tmp_path / "from" / "m.onnx"), tmp_path / "far.onnx", tmp_path / "from")
    assert (tmp_path / "far.onnx.data").stat().st_size == 20 * 4096 + 120_000
    assert (tmp_path / "far.onnx").stat().st_size < 1000
    assert load_model(tmp_path / "far.onnx").graph.initializer == proto.graph.initializer
    save_model(model_of([3, 20_000, 30_000]), tmp_path / "near.onnx")
    assert (tmp_path / "near.onnx.data").read_bytes() == (tmp_path / "far.onnx.data").read_bytes()
