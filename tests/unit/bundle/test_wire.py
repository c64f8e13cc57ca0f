"""What an ONNX file names is what the onnx package reads in it, and what could be read in two ways is refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtrt.bundle.external_data import check_external_data, check_operators, data_locations
from mmtrt.bundle.manifest import BundledOnnx
from mmtrt.bundle.operators import OPERATORS
from mmtrt.bundle.wire import NESTED, Named, Place, named
from mmtrt.errors import InputError

onnx = pytest.importorskip("onnx")
DecodeError = pytest.importorskip("google.protobuf.message").DecodeError


def test_every_message_that_has_tensors_or_nodes_in_it_is_walked() -> None:
    def reaches(message: Any, seen: frozenset[str] = frozenset()) -> bool:
        """Whether there are tensors or nodes somewhere in a message."""
        if message.name in {"TensorProto", "NodeProto"}:
            return True
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name not in seen]
        return any(reaches(kind, seen | {message.name}) for kind in inner)

    def found(message: Any, out: dict[str, dict[int, str]]) -> dict[str, dict[int, str]]:
        if message.name not in out and message.name != "TensorProto":
            out[message.name] = {f.number: f.message_type.name for f in message.fields if reaches_of(f)}
            for f in message.fields:
                if reaches_of(f):
                    found(f.message_type, out)
        return out

    def reaches_of(f: Any) -> bool:
        return f.message_type is not None and reaches(f.message_type)

    external = onnx.TensorProto.DESCRIPTOR.fields_by_name["external_data"]
    assert {
        **found(onnx.ModelProto.DESCRIPTOR, {}),
        "TensorProto": {external.number: external.message_type.name},
    } == NESTED


def test_onnx_s_own_operators_are_known() -> None:
    schemas = onnx.defs.get_all_schemas_with_history()
    assert {s.name for s in schemas if not s.domain} - OPERATORS == set()


texts = st.text(max_size=8)
places = st.builds(Place, texts.filter(bool), st.integers(0, 2**40), st.one_of(st.none(), st.integers(0, 2**40)))


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    tensor = onnx.TensorProto(name=draw(texts), data_type=1, dims=draw(st.lists(st.integers(0, 9), max_size=3)))
    if draw(st.booleans()):
        place = draw(places)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        told = {"location": place.location, "offset": str(place.offset), "length": place.length, "checksum": "x"}
        for key, value in told.items():
            if value is not None:
                tensor.external_data.add(key=key, value=str(value))
    else:
        tensor.raw_data = draw(st.binary(max_size=200))
    return tensor


def graphs(depth: int = 0) -> st.SearchStrategy[Any]:
    @st.composite
    def one(draw: st.DrawFn) -> Any:
        graph = onnx.GraphProto(name=draw(texts), doc_string=draw(texts))
        graph.node.extend(draw(st.lists(nodes(depth), max_size=3)))
        graph.initializer.extend(draw(st.lists(tensors(), max_size=3)))
        for values in draw(st.lists(tensors(), max_size=1)):
            graph.sparse_initializer.add(values=values, indices=values)
        graph.input.add(name=draw(texts))
        return graph

    return one()


@st.composite
def nodes(draw: st.DrawFn, depth: int) -> Any:
    node = onnx.NodeProto(op_type=draw(texts), domain=draw(texts), input=draw(st.lists(texts, max_size=2)))
    for tensor in draw(st.lists(tensors(), max_size=2)):
        attribute = node.attribute.add(name="value", type=4, t=tensor, s=b"text", ints=[1, 2], floats=[0.5])
        attribute.tensors.append(tensor)
        attribute.sparse_tensor.values.CopyFrom(tensor)
        attribute.sparse_tensors.add().indices.CopyFrom(tensor)
    if depth < 2:
        for graph in draw(st.lists(graphs(depth + 1), max_size=1)):
            node.attribute.add(name="body", type=5, g=graph).graphs.append(graph)
    return node


@st.composite
def models(draw: st.DrawFn) -> Any:
    model = onnx.ModelProto(ir_version=10, graph=draw(graphs()), producer_name=draw(texts))
    for node in draw(st.lists(nodes(2), max_size=2)):
        function = model.functions.add(name=draw(texts), domain=draw(texts), node=[node])
        function.attribute_proto.add(name="a", t=draw(tensors()))
    model.training_info.add(initialization=draw(graphs(2)), algorithm=draw(graphs(2)))
    return model


def by_onnx(message: Any) -> Named:
    out = Named()
    for part in messages(message):
        if part.DESCRIPTOR.name == "TensorProto" and part.external_data:
            told = {entry.key: entry.value for entry in part.external_data}
            length = int(told["length"]) if "length" in told else None
            out.places.add(Place(told["location"], int(told.get("offset", 0)), length))
        elif part.DESCRIPTOR.name == "NodeProto":
            out.operators.add((part.domain, part.op_type))
        elif part.DESCRIPTOR.name == "FunctionProto":
            out.functions.add((part.domain, part.name))
    return out


def messages(message: Any) -> Iterator[Any]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None:
            for inner in [value] if hasattr(value, "DESCRIPTOR") else value:
                yield from messages(inner)


@settings(max_examples=25)
@given(models())
def test_what_a_model_names_is_what_onnx_reads(tmp_path_factory: pytest.TempPathFactory, model: Any) -> None:
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert named(path) == by_onnx(model)


@settings(max_examples=60)
@given(models(), st.data())
def test_what_is_changed_is_refused_or_names_at_least_what_onnx_reads(
    tmp_path_factory: pytest.TempPathFactory, model: Any, data: st.DataObject
) -> None:
    raw = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("m") / "m.onnx"
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    try:
        told = named(path)
    except InputError:
        return
    try:
        read = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        return  # what nobody can read is of no danger
    try:
        wanted = by_onnx(read)
    except (KeyError, ValueError):
        pytest.fail("an entry of external data that is none was let through")
    assert told.places >= wanted.places
    assert told.operators >= wanted.operators


def model_with(location: str, **more: str) -> Any:
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=1)
    for key, value in {"location": location, **more}.items():
        tensor.external_data.add(key=key, value=value)
    graph = onnx.GraphProto(name="g", initializer=[tensor], node=[onnx.NodeProto(op_type="Relu")])
    return onnx.ModelProto(ir_version=10, graph=graph)


def written(folder: Path, model: Any) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def test_a_model_s_own_weights_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8))
    row = BundledOnnx(path="models/m.onnx", digest="0" * 64, data=["models/data/w.bin"])
    assert data_locations(row) == ["data/w.bin"]
    check_external_data(written(tmp_path, model_with("data/w.bin", offset="4", length="4")), data_locations(row))


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../w.bin", "data/../../w.bin", "./w.bin", "data//w.bin", "other.bin", "", "*/_ORT_MEM_ADDR_/*"],
)
def test_any_other_file_is_not_even_looked_at(tmp_path: Path, location: str) -> None:
    path = written(tmp_path, model_with(location))
    with pytest.raises(InputError, match="which is not among its weights"):
        check_external_data(path, ["w.bin"])
    with pytest.raises(InputError, match=r"leads out of its folder|No such file"):
        check_external_data(path, [location])


@pytest.mark.parametrize("kind", ["link", "folder link", "fifo", "folder", "short", "missing"])
def test_weights_are_a_plain_file_that_is_long_enough(tmp_path: Path, kind: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "w.bin").write_bytes(bytes(8))
    path = written(tmp_path, model_with("data/w.bin", offset="4", length="5" if kind == "short" else "4"))
    if kind == "folder link":
        (tmp_path / "data").symlink_to("real")
    else:
        (tmp_path / "data").mkdir()
    make = {
        "link": lambda at: at.symlink_to("../real/w.bin"),
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "short": lambda at: at.write_bytes(bytes(8)),
    }
    make.get(kind, str)(tmp_path / "data" / "w.bin")
    with pytest.raises(InputError, match=r"is a link|no plain file|beyond the end|No such file"):
        check_external_data(path, ["data/w.bin"])


def raw(*parts: bytes) -> bytes:
    return b"\x08\x0a" + b"".join(parts)


def length_delimited(number: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([number << 3 | 2, len(body)]) + body


ENTRY = length_delimited(1, b"location") + length_delimited(2, b"w.bin")
TENSOR = length_delimited(13, ENTRY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ir_version: 8 graph { name: 'text' }",
        b"\n# a comment" + raw(),
        raw(b"\x0b\x0c"),  # a group, which a reader of protobuf skips
        raw(b"\x00\x01"),  # a field without a number
        raw(b"\xba\x80\x80\x80\x80\x10\x02\x0a\x00"),  # a number of more than 32 bits, which some cut
        raw(b"\x3a\x82\x80\x80\x80\x80\x00\x0a\x00"),  # a length of more than 32 bits
        raw(b"\x3a\x7f"),  # beyond the end
        raw(length_delimited(7, length_delimited(5, length_delimited(13, ENTRY + length_delimited(2, b"o"))))),
        raw(length_delimited(7, length_delimited(5, TENSOR + length_delimited(13, ENTRY)))),
        raw(length_delimited(7, length_delimited(5, length_delimited(13, length_delimited(1, b"offset"))))),
        raw(length_delimited(7, length_delimited(1, length_delimited(4, b"A") + length_delimited(4, b"B")))),
        raw(length_delimited(7, length_delimited(1, length_delimited(4, b"\xff")))),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path, data)
    with pytest.raises(InputError, match="no ONNX file that is safe to parse"):
        named(path)


@pytest.mark.parametrize("told", ["-1", "1e3", "0x4", "", " 4", "٣", "9" * 30])
def test_a_place_is_a_number(tmp_path: Path, told: str) -> None:
    path = written(tmp_path, model_with("w.bin", offset=told))
    with pytest.raises(InputError, match="no number of bytes"):
        named(path)


def test_depth_is_held_to_protobuf_s_own(tmp_path: Path) -> None:
    def nested(levels: int) -> bytes:
        graph = b""
        for _ in range(levels):
            for number in (6, 5, 1):  # of an attribute, of a node, of a graph
                size = len(graph)
                graph = bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + graph
        size = len(graph)
        return raw(bytes([7 << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + graph)

    assert named(written(tmp_path, nested(20))).operators == {("", "")}
    with pytest.raises(InputError, match="deeper than 100"):
        named(written(tmp_path, nested(40)))


def test_a_link_or_a_fifo_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "real.onnx").write_bytes(model_with("w.bin").SerializeToString())
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    os.mkfifo(tmp_path / "fifo.onnx")
    for name in ("link.onnx", "fifo.onnx", "none.onnx"):
        with pytest.raises(InputError):
            named(tmp_path / name)


@pytest.mark.parametrize(
    ("domain", "name", "allowed"),
    [
        ("", "Relu", True),
        ("ai.onnx", "Relu", True),
        ("", "EfficientNMS_TRT", False),
        ("com.microsoft", "EPContext", False),
        ("com.microsoft", "Gelu", False),
        ("mine", "Scale", True),  # a function of the model
    ],
)
def test_an_operator_is_onnx_s_or_the_model_s_or_listed(tmp_path: Path, domain: str, name: str, allowed: bool) -> None:
    model = model_with("w.bin")
    model.graph.node.add(op_type=name, domain=domain)
    model.functions.add(name="Scale", domain="mine").node.add(op_type="Mul")
    path = written(tmp_path, model)
    check_operators(path, [name])
    if allowed:
        check_operators(path, [])
        return
    with pytest.raises(InputError, match=f"{name}.*neither ONNX's nor a plugin"):
        check_operators(path, [])
