"""The rules of a preprocessing: what they make, and what they say of what does not fit."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmtrt.errors import InputError, MachineError
from mmtrt.preprocess import Preprocessing, parse_preprocessing, read_picture, read_preprocessing
from mmtrt.preprocess.resizing import Resize, resized
from mmtrt.tensors import TensorSpec

IMAGE: dict[str, Any] = {"kind": "image", "input": "image", "size": [4, 6]}
TEXT: dict[str, Any] = {
    "kind": "text",
    "ids": "ids",
    "mask": "mask",
    "words": ["<pad>", "<s>", "</s>", "<?>", "what", "is", "it"],
    "pad": "<pad>",
    "start": "<s>",
    "end": "</s>",
    "length": [4, 6],
}
TABLE: dict[str, Any] = {"kind": "tensor", "input": "table", "dtype": "float32", "shape": [2, "rows"]}
RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)


def made(**raw: Any) -> Preprocessing:
    return parse_preprocessing({"schema": "mmtrt.preprocessing/1", "raw": raw}, "the test")


# ----------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_a_picture_is_scaled_and_laid_out(layout: str, channels: str) -> None:
    rule = {**IMAGE, "layout": layout, "channels": channels, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}
    told = made(picture=rule).feeds(picture=PICTURE)["image"]
    for place in range(3):
        seen = PICTURE[:, :, place if channels == "RGB" else 2 - place].astype(np.float32) / np.float32(255)
        wanted = (seen - np.float32(rule["mean"][place])) / np.float32(rule["std"][place])
        np.testing.assert_array_equal(told[0, place] if layout == "CHW" else told[0, :, :, place], wanted)
    assert told.dtype == np.float32
    assert told.flags.c_contiguous


def test_a_grey_picture_counts_as_three_equal_channels() -> None:
    grey = PICTURE[:, :, 0]
    whole = made(picture=IMAGE).feeds(picture=np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(made(picture=IMAGE).feeds(picture=grey)["image"], whole["image"])


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (PICTURE.astype(np.float32), "'picture' is float32, where a picture is uint8"),
        (PICTURE.transpose(2, 0, 1), "'picture' is 3x4x6, where a picture is height x width x 3"),
        (np.zeros((4, 6, 4), np.uint8), "leave out transparency"),
        (np.zeros((0, 6, 3), np.uint8), "'picture' is 0x6x3"),
        (np.zeros((5, 6, 3), np.uint8), "'picture' is 5x6, and 4x6 is taken"),
        (PICTURE.tolist()[0][0][0], "'picture' is a int, where a picture is wanted"),
        ("missing.png", "can't read the picture missing.png"),
    ],
)
def test_what_is_no_picture_is_told(picture: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(picture=IMAGE).feeds(picture=picture)


def interpolated(pixels: np.ndarray, size: tuple[int, int], method: Resize) -> np.ndarray:
    """By the definition, pixel by pixel, in double precision."""
    result = np.zeros((*size, pixels.shape[2]))
    for row, column in np.ndindex(*size):
        for y, wy in weights(pixels.shape[0], size[0], row, method):
            for x, wx in weights(pixels.shape[1], size[1], column, method):
                result[row, column] += wy * wx * pixels[y, x]
    return result


def weights(size: int, wanted: int, place: int, method: Resize) -> list[tuple[int, float]]:
    centre = (place + 0.5) * size / wanted
    if size == wanted:
        return [(place, 1.0)]
    if method == "nearest":
        return [(min(int(centre), size - 1), 1.0)]
    if method == "bilinear_antialias":
        reach = max(size / wanted, 1)
        found = [(i, max(0.0, 1 - abs(i + 0.5 - centre) / reach)) for i in range(size)]
        total = sum(weight for _, weight in found)
        return [(i, weight / total) for i, weight in found]
    at = place * (size - 1) / max(wanted - 1, 1) if method == "bilinear_align_corners" else centre - 0.5
    low = int(np.floor(at))
    return [(min(max(i, 0), size - 1), weight) for i, weight in ((low, low + 1 - at), (low + 1, at - low))]


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bilinear_align_corners", "bilinear_antialias"])
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_resizing_is_what_its_definition_says(
    method: Resize, height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    told = resized(pixels, (rows, columns), method)
    assert told.dtype == np.float32
    np.testing.assert_allclose(told, interpolated(pixels, (rows, columns), method), atol=1e-3)


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bilinear_align_corners", "bilinear_antialias"])
def test_the_same_size_is_left_as_it_is(method: Resize) -> None:
    np.testing.assert_array_equal(resized(PICTURE, (4, 6), method), PICTURE.astype(np.float32), strict=True)


# -------------------------------------------------------------------------------------------------------- files


def ppm(pixels: np.ndarray) -> bytes:
    return b"P6 # a comment\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def bmp(pixels: np.ndarray, upwards: bool) -> bytes:
    height, width = pixels.shape[:2]
    rows = np.zeros((height, (3 * width + 3) // 4 * 4), np.uint8)
    rows[:, : 3 * width] = pixels[:, :, ::-1].reshape(height, -1)
    body = (rows[::-1] if upwards else rows).tobytes()
    size = (40).to_bytes(4, "little") + width.to_bytes(4, "little")
    size += (height if upwards else -height).to_bytes(4, "little", signed=True)
    header = b"BM" + bytes(8) + (54).to_bytes(4, "little") + size + b"\1\0\x18\0" + bytes(24)
    return header + body


@pytest.mark.parametrize("kind", ["ppm", "npy", "bmp up", "bmp down"])
def test_plain_pictures_are_read_without_pillow(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    path = tmp_path / "picture"
    if kind == "npy":
        with path.open("wb") as stream:
            np.save(stream, PICTURE[:, :5])
    else:
        path.write_bytes(ppm(PICTURE[:, :5]) if kind == "ppm" else bmp(PICTURE[:, :5], kind == "bmp up"))
    np.testing.assert_array_equal(read_picture(path), PICTURE[:, :5], strict=True)


def test_a_grey_map_is_read(tmp_path: Path) -> None:
    path = tmp_path / "grey.pgm"
    path.write_bytes(b"P5\n6 4\n255\n" + PICTURE[:, :, 1].tobytes())
    np.testing.assert_array_equal(read_picture(path), PICTURE[:, :, 1], strict=True)
    assert made(picture=IMAGE).feeds(picture=str(path))["image"].shape == (1, 3, 4, 6)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (ppm(PICTURE)[:-1], "it has 71 bytes of pixels, and 72 by its header"),
        (b"P6 6 4 65535\n" + bytes(144), "its largest value is 65535"),
        (bmp(PICTURE, True)[:-1], "bytes of pixels"),
        (bmp(PICTURE, True)[:18] + b"\xff\xff\xff\x7f" * 2 + bmp(PICTURE, True)[26:], "bytes of pixels, and 13835"),
        (b"\x93NUMPY\1\0\x02\0{}", "is broken"),
        (npy(np.array([{}])), "is broken: Object arrays"),
        (npy(PICTURE)[:-1], "is broken"),
        (npy(PICTURE).replace(b"(4, 6, 3)", b"(4, 9**3)"), "is broken"),
        (npy(PICTURE).replace(b"(4, 6, 3), }" + b" " * 9, b"(4" + b"0" * 14 + b",), }"), "is broken"),
    ],
)
def test_a_broken_picture_is_told(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_picture(path)


def test_a_file_of_no_known_form_is_told(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    path = tmp_path / "picture.png"
    path.write_bytes(b"none")
    with pytest.raises(InputError, match=r"picture\.png is no picture that Pillow knows"):
        read_picture(path)


def test_whatever_pillow_makes_of_a_broken_picture_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")

    def broken(_: object) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(image, "open", broken)
    (tmp_path / "picture").write_bytes(b"II*\0")
    with pytest.raises(InputError, match="is broken: unpack requires"):
        read_picture(tmp_path / "picture")


def png(pixels: np.ndarray) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_other_pictures_are_read_by_pillow(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    path = tmp_path / "picture.png"
    path.write_bytes(png(PICTURE))
    np.testing.assert_array_equal(read_picture(path), PICTURE, strict=True)
    path.write_bytes(png(PICTURE)[:60])
    with pytest.raises(InputError, match="is broken"):
        read_picture(path)


def test_without_pillow_the_mend_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmtrt.preprocess.pictures.find_spec", lambda _: None)
    path = tmp_path / "picture.png"
    path.write_bytes(png(PICTURE))
    with pytest.raises(MachineError, match=r"Pillow.* is not installed\npip install pillow"):
        read_picture(path)


# -------------------------------------------------------------------------------------------------------- texts


def test_a_text_becomes_ids_and_mask() -> None:
    rule = {**TEXT, "separators": "?'", "unknown": "<?>"}
    told = made(text=rule).feeds(text=" WHAT'is   this?\n")
    assert told["ids"].tolist() == [[1, 4, 5, 3, 2]]
    assert told["mask"].tolist() == [[1, 1, 1, 1, 1]]
    assert told["ids"].dtype == told["mask"].dtype == np.int64


def test_a_short_text_is_filled_up_and_a_batch_to_its_longest() -> None:
    one = made(text={**TEXT, "dtype": "int32"})
    assert one.feeds(text="it")["ids"].tolist() == [[1, 6, 2, 0]]
    told = one.feeds(text=["it", "what is it"])
    assert told["ids"].tolist() == [[1, 6, 2, 0, 0], [1, 4, 5, 6, 2]]
    assert told["mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert told["mask"].dtype == np.int32


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what is it what is", "'text' has 5 words, and the model takes 4 at most"),
        ("what is its", "'text' holds 'its', which the model's vocabulary lacks\nDid you mean 'it'"),
        ("xyzzy", "It knows 7 words"),
        ("<pad>", "'text' holds '<pad>'"),
        ("What", None),
        (b"what", "'text' is a bytes, where a text is wanted"),
    ],
)
def test_what_can_not_be_said_is_told(text: Any, said: str | None) -> None:
    rule = made(text={**TEXT, "lower": False} if said is None else TEXT)
    with pytest.raises(InputError, match=said or "'text' holds 'What'"):
        rule.feeds(text=text)


# ------------------------------------------------------------------------------------------------ tensors, batches


def test_a_tensor_is_handed_on() -> None:
    table = RNG.standard_normal((2, 5), dtype=np.float32)
    np.testing.assert_array_equal(made(table=TABLE).feeds({"table": table})["table"], table[None], strict=True)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (np.zeros((2, 5)), "'table' is float64 2x5, where float32 2xrows is wanted"),
        (np.zeros((1, 2, 5), np.float32), "Leave out the batch axis"),
        (np.zeros((3, 5), np.float32), "'table' is float32 3x5"),
        (1.0, r"'table' is a float.*\nGive np.asarray"),
    ],
)
def test_what_is_no_such_tensor_is_told(table: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(table=TABLE).feeds(table=table)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"txt": "it"}, "takes no 'txt'\nDid you mean 'text'"),
        ({"zzz": "it"}, "takes no 'zzz'\nIt takes text, table"),
        ({"text": "it"}, r"'table' is missing\nGive it: feeds\(table=...\)"),
        ({"text": ["it", "it"], "table": np.zeros((2, 1), np.float32)}, "2 of 'text', 1 of 'table'"),
        ({"text": []}, "0 of 'text'"),
        ({"text": ["it"] * 2, "table": [np.zeros((2, n), np.float32) for n in (1, 2)]}, "two shapes within one batch"),
    ],
)
def test_what_is_handed_in_wrong_is_told(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(text=TEXT, table=TABLE).feeds(given)


def test_what_may_be_absent_is_blank() -> None:
    rules = {"picture": IMAGE, "text": TEXT, "table": TABLE}
    one = made(**{name: {**rule, "absent": "blank"} for name, rule in rules.items()})
    told = one.feeds(text=["it", None])
    assert told["ids"].tolist() == [[1, 6, 2, 0], [0, 0, 0, 0]]
    assert told["mask"].tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]
    assert told["image"].shape == (2, 3, 4, 6)
    assert not told["image"].any()
    assert told["table"].shape == (2, 2, 1)


# ----------------------------------------------------------------------------------------------------- documents


def test_a_document_keeps_its_hash_whatever_the_order_of_its_keys(tmp_path: Path) -> None:
    one = made(picture=IMAGE, text=TEXT)
    path = tmp_path / "preprocessing.json"
    path.write_text(json.dumps(dict(reversed(one.to_json().items()))), encoding="utf-8")
    assert read_preprocessing(path).digest == one.digest
    assert made(picture={**IMAGE, "scale": 256.0}, text=TEXT).digest != one.digest
    assert one.to_bytes().decode() == json.dumps(one.to_json(), indent=2) + "\n"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({**IMAGE, "sise": [1, 1]}, "raw.x.image.sise"),
        ({**IMAGE, "size": [0, 4]}, "raw.x.image.size.0"),
        ({**IMAGE, "std": [0.0, 1.0, 1.0]}, "raw.x.image.std.0"),
        ({**IMAGE, "mean": [float("nan"), 1.0, 1.0]}, "raw.x.image.mean.0"),
        ({**IMAGE, "resize": "cubic"}, "raw.x.image.resize"),
        ({**IMAGE, "kind": "sound"}, "raw.x"),
        ({**TEXT, "words": ["a", "a"]}, "a word stands twice"),
        ({**TEXT, "unknown": "<unk>"}, "'<unk>' is not in the vocabulary"),
        ({**TEXT, "length": [6, 4]}, r"length is \[6, 4\]"),
        ({**TEXT, "mask": "ids"}, "two rules make the same input"),
        ({**TABLE, "dtype": "complex64"}, "raw.x.tensor.dtype"),
    ],
)
def test_a_broken_rule_is_told(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        made(x=rule)


@pytest.mark.parametrize("data", [[], "preprocessing.json", {"raw": {"x": IMAGE}}, {"schema": "mmtrt.preprocessing/2"}])
def test_another_document_is_refused(data: object) -> None:
    with pytest.raises(InputError, match="preprocessing of the test has another schema"):
        parse_preprocessing(data, "the test")


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([("image", "float32", ("batch", 3, 4, 6)), ("ids", "int64", ("batch", 9))], "makes no input 'ids'"),
        ([("image", "float32", ("batch", 3, 4, 8))], "makes image: float32"),
        ([("image", "float16", ("batch", 3, 4, 6))], "makes image: float32"),
        ([("image", "float32", (3, 4, 6))], "makes image: float32"),
        ([], "makes 'image', which is no input"),
    ],
)
def test_it_is_held_against_the_model(inputs: list[tuple[str, str, tuple[int | str, ...]]], said: str) -> None:
    specs = [TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs]
    with pytest.raises(InputError, match=said):
        made(picture=IMAGE).check(specs, "it")
