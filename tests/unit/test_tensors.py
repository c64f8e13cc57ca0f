from __future__ import annotations

import json
import string

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mmtrt.errors import UsageError
from mmtrt.tensors import (
    Array,
    ModelSpec,
    ShapeRange,
    TensorSpec,
    array_digest,
    format_shape,
    parse_shapes,
    resize_array,
    resolve_shape,
)

NAMES = st.text(string.ascii_letters + string.digits + "_./", min_size=1, max_size=8)
SHAPES = st.dictionaries(NAMES, st.lists(st.integers(0, 5000), max_size=5).map(tuple), max_size=4)
ARRAYS = st.dictionaries(
    NAMES,
    npst.arrays(
        st.sampled_from(["float32", "int64", "uint8", "bool", "float16"]),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    ),
    max_size=3,
)
SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=("batch", 3, 16, 16)),
        TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
    ),
    outputs=(TensorSpec(name="answer", dtype="float32", shape=("batch", 5)),),
    modalities={"image": ("image",), "text": ("ids",)},
    ranges={"batch": (1, 2, 8), "text": (2, 5, 9)},
    limits={"ids": (0, 19)},
    source="package.module:factory",
    digest="0123",
    versions={"torch": "2"},
)


# ----------------------------------------------------------------------------------------------------- shapes


@given(SHAPES)
def test_trtexec_notation_comes_back(shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes(",".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())) == shapes


@given(SHAPES, st.sampled_from([",", " ", ", "]), st.sampled_from([",", ", ", " ,"]))
def test_polygraphy_notation_comes_back(shapes: dict[str, tuple[int, ...]], between: str, comma: str) -> None:
    text = between.join(f"{name}:[{comma.join(map(str, shape))}]" for name, shape in shapes.items())
    assert parse_shapes(text) == shapes


@given(st.text(alphabet="ab:x[], 1-", max_size=14))
def test_what_is_read_is_written_back_or_refused(text: str) -> None:
    try:
        shapes = parse_shapes(text)
    except UsageError:
        return
    assert parse_shapes(",".join(f"{name}:{format_shape(shape)}" for name, shape in shapes.items())) == shapes
    digits = [int(part) for part in "".join(c if c.isdigit() else " " for c in text).split()]
    read = [size for shape in shapes.values() for size in shape]
    assume(not any(c.isdigit() for name in shapes for c in name))
    assert read == digits, "no number is lost, and none is made up"


@pytest.mark.parametrize(
    "text",
    [
        "ids",
        "ids:",
        "ids:axb",
        "ids:1x",
        "ids:1x-3",
        "ids:[1,4",
        "ids:[,1]",
        "ids:[1,]",
        "ids:[1 4]",
        ":1x2",
        "ids:1.5",
        "ids:[1:2",
        "ids:1x4,,mask:1x4",
        ",ids:1x4",
        "ids:1x4;mask:1x4",
        "ids=1x4",
        "ids:1x4mask:2",
    ],
)
def test_junk_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="can't read a shape at") as caught:
        parse_shapes(text)
    assert repr(text)[1:-1][-4:] in caught.value.message
    assert "name:1x3x224x224" in str(caught.value.fix)


def test_the_rest_that_can_t_be_read_is_quoted() -> None:
    with pytest.raises(UsageError, match="at 'mask:axb'"):
        parse_shapes("ids:1x4, mask:axb")


def test_a_shape_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'ids' is given twice"):
        parse_shapes("ids:1x4,mask:1x4,ids:[2,4]")


def test_names_may_hold_colons() -> None:
    assert parse_shapes("input:0:1x4,onnx::Gather_1:[2,3]") == {"input:0": (1, 4), "onnx::Gather_1": (2, 3)}


def test_no_text_names_no_shape() -> None:
    assert parse_shapes("  ") == {}
    assert parse_shapes("x:scalar,y:[]") == {"x": (), "y": ()}


def test_shapes_are_written_as_trtexec_does() -> None:
    assert format_shape((1, 3, 224)) == "1x3x224"
    assert format_shape(("batch", 3)) == "batchx3"
    assert format_shape(()) == "scalar"


# ----------------------------------------------------------------------------------------------------- digests


@given(ARRAYS, st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(arrays: dict[str, Array], random: st.DataObject) -> None:
    names = list(arrays)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert array_digest({name: arrays[name].copy() for name in names}) == array_digest(arrays)


@given(ARRAYS, st.data())
def test_any_changed_bit_matters(arrays: dict[str, Array], data: st.DataObject) -> None:
    filled = [name for name, array in arrays.items() if array.nbytes]
    assume(filled)
    name = data.draw(st.sampled_from(filled))
    raw = bytearray(arrays[name].tobytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    changed = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
    assert array_digest({**arrays, name: changed}) != array_digest(arrays)


def test_name_type_and_shape_matter() -> None:
    zero = np.zeros((2, 3), np.float32)
    others = [
        {"b": zero},
        {"a": zero.astype(np.int32)},
        {"a": zero.reshape(3, 2)},
        {"a": zero.reshape(6)},
        {"a": zero, "b": zero},
        {},
    ]
    assert len({array_digest(arrays) for arrays in [{"a": zero}, *others]}) == 7
    assert array_digest({"a": np.float32(0)}) != array_digest({"a": np.zeros(1, np.float32)})


def test_the_layout_in_memory_does_not_matter() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert array_digest({"a": np.asfortranarray(array)}) == array_digest({"a": array})
    assert array_digest({"a": array[:, ::2]}) == array_digest({"a": array[:, ::2].copy()})


# ------------------------------------------------------------------------------------------------- specs, sizes


@given(
    npst.arrays("int64", npst.array_shapes(min_dims=0, max_dims=3, max_side=4), elements=st.integers(0, 99)), st.data()
)
def test_resizing_repeats_and_cuts(array: Array, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(0, 7)) for _ in array.shape)
    sized = resize_array(array, shape)
    assert sized.shape == shape
    assert sized.flags.c_contiguous
    for index in np.ndindex(*shape):
        assert sized[index] == array[tuple(i % n for i, n in zip(index, array.shape, strict=True))]


def test_names_become_sizes() -> None:
    assert resolve_shape(("batch", 3, "text"), {"batch": 2, "text": 7}) == (2, 3, 7)
    with pytest.raises(KeyError, match="text"):
        resolve_shape(("batch", "text"), {"batch": 2})


def test_ranges_become_a_profile() -> None:
    assert SPEC.profile() == {
        "image": ShapeRange(min=(1, 3, 16, 16), opt=(2, 3, 16, 16), max=(8, 3, 16, 16)),
        "ids": ShapeRange(min=(1, 2), opt=(2, 5), max=(8, 9)),
    }


def test_a_spec_comes_back_from_json() -> None:
    assert ModelSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    bare = ModelSpec(inputs=SPEC.inputs, outputs=())
    assert ModelSpec.from_json({"inputs": SPEC.to_json()["inputs"], "outputs": []}) == bare


def test_a_tensor_says_what_it_is() -> None:
    assert str(SPEC.inputs[1]) == "ids: int64 (batch, text)"
