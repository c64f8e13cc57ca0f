"""A manifest says what everybody reads in it, names what is there, and nothing that leads out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fuzz_base import contents, manifest_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmtrt.bundle.canonical import FILE_BYTES, FILES, check_names
from mmtrt.bundle.manifest import MANIFEST_BYTES, check_plugins, parse_manifest, refuse_older, version_key
from mmtrt.bundle.plain_json import DEPTH, VALUES, plain_json
from mmtrt.errors import InputError

BASE: dict[str, Any] = json.loads(manifest_of(contents()).to_bytes())
ENTRY = {"sha256": "0" * 64, "bytes": 1}


def parsed(told: Any) -> Any:
    return parse_manifest(json.dumps(told).encode(), "vqa.mmtrt")


def test_what_is_written_is_read_again() -> None:
    manifest = manifest_of(contents())
    assert parse_manifest(manifest.to_bytes(), "vqa.mmtrt") == manifest
    assert parse_manifest(manifest.to_bytes(), "vqa.mmtrt").to_bytes() == manifest.to_bytes()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe{\x00}\x00", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ('{"a": 1}'.encode("utf-16-le"), "can't be read|utf-8|control"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": {"b": 1, "\\u0062": 2}}', "stands twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "Infinity is no number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": -1e999}', "too large"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "more than 64 bits"),
        (b'{"a": ' + b"0." + b"1" * 100_000 + b"e400}", "too large"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b"[" * 150_000, "recursion|deeper"),
        (b'{"a":' * 150_000, "recursion|deeper"),
        (b'{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}", "deeper"),
        (b'{"a": [' + b"[]," * VALUES + b"[]]}", "more than 200000 values"),
        (b'{"a": [' + b"1," * VALUES + b"1]}", "more than 200000 values"),
        (b'{"a": "\\u001b[31m"}', "control character"),
        (b'{"\\u009b31m": 1}', "control character"),
        (b'{"a": "\\u0000"}', "control character"),
        (b'{"a": 1} {}', "Extra data"),
        (b"[]", "valid dictionary|instance of Manifest"),
        (b"null", "valid dictionary|instance of Manifest"),
    ],
)
def test_json_that_readers_could_read_otherwise_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(InputError, match=rf"(?i)the manifest of vqa.mmtrt.*({why})") as caught:
        parse_manifest(data, "vqa.mmtrt")
    assert len(caught.value.message) <= 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc\n\t\u00e9\U0001f600"), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_plain_json_is_read_as_python_does(value: Any) -> None:
    assert plain_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_manifest_or_an_error_that_says_so(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_manifest(data, "vqa.mmtrt")


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in inner for path in paths(item, (*at, key)))]


def changed(at: tuple[Any, ...], value: Any) -> Any:
    """The base with another value at a path."""
    if not at:
        return value
    told = json.loads(json.dumps(BASE))
    inner = told
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return told


FREE = ("spec", "recipe", "settings", "calibration", "measured")
ODD = [None, True, -1, 0.5, "", "x" * 300, "../up", "/abs", "a\nb", [], [[]], {}, {"a": {}}, 2**63, "\ud800"]


@pytest.mark.parametrize("at", [at for at in paths(BASE) if not set(FREE) & set(at[:-1])], ids=str)
def test_anything_in_any_place_is_a_manifest_or_an_error(at: tuple[Any, ...]) -> None:
    """No other exception, and what is let through names only files that it has."""
    for value in ODD:
        try:
            manifest = parsed(changed(at, value))
        except InputError:
            continue
        check_names(manifest.files)
        for model in manifest.models.values():
            assert {model.path, *model.data} <= set(manifest.files)
        for text in (manifest.name, *manifest.targets, *(e.target + e.flavor_version for e in manifest.engines)):
            assert "/" not in text
            assert not text.startswith(".")


@pytest.mark.parametrize(
    "names",
    [
        ["a", "A"],
        ["a/b", "A/c"],
        ["a", "a/b"],
        ["A", "a/b"],
        ["a/b", "a/b/c"],
        ["a/B", "a/b/c"],
        ["a", "a"],
        ["bundle.json"],
        ["Bundle.Sig"],
        ["bundle.sha256/a"],
        ["a/../b"],
        ["/a"],
        ["a/"],
        [".a"],
        ["a/.b"],
        ["-a"],
        ["a\0"],
        ["a\n"],
        ["a b"],
        ["\u00e9"],
        ["a\u200b"],
        ["\uff0e\uff0e/a"],
        ["con"],
        ["a/COM1.onnx"],
        ["a."],
        ["a/b./c"],
        ["a/b/c/d/e"],
        ["a" * 101],
        [""],
    ],
)
def test_names_that_clash_or_lead_out_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        check_names(names)
    extra = dict.fromkeys(names, ENTRY)
    if len(extra) == len(names):
        with pytest.raises(InputError):
            parsed(BASE | {"files": BASE["files"] | extra})


def test_numbers_of_files_and_bytes_are_bounded() -> None:
    many = {f"f{number}": ENTRY for number in range(FILES + 1)}
    with pytest.raises(InputError, match="at most"):
        parsed(BASE | {"files": BASE["files"] | many})
    with pytest.raises(InputError, match="less than or equal"):
        parsed(BASE | {"files": BASE["files"] | {"f": ENTRY | {"bytes": FILE_BYTES + 1}}})


def test_a_manifest_is_checked_when_it_is_made_too() -> None:
    with pytest.raises(ValidationError, match="differ in case only"):
        manifest_of(contents() | {"Preprocessing.json": b""})


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"text": "\x1b[2J"}, "control character"),
        ({"text": "one\r\ntwo"}, "control character"),
        ({"text": "x" * MANIFEST_BYTES}, "more than 4194304"),
        ({"list": [0] * VALUES}, "more than 200000 values"),
        ({"text": float("inf")}, "can't be written"),
        ({"text": object()}, "can't be written"),
    ],
)
def test_a_manifest_that_would_be_refused_is_not_written(recipe: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=f"the manifest of vqa .*{why}"):
        manifest_of(contents(), recipe=recipe).to_bytes()


@pytest.mark.parametrize(
    ("new", "current", "older"),
    [
        ("1.2.0", "1.2.0", False),
        ("1.10", "1.9.9", False),
        ("1.9.9", "1.10", True),
        ("1", "1.0.0", False),
        ("1.0", "1.0.0.1", True),
        ("0.9", "1", True),
        ("010", "9", False),
    ],
)
def test_an_older_version_is_not_put_over_a_newer_one(new: str, current: str, older: bool) -> None:
    assert (version_key(new) < version_key(current)) is older
    files = contents()
    first, second = manifest_of(files, version=new), manifest_of(files, version=current)
    if not older:
        refuse_older(first, second)
        return
    with pytest.raises(InputError, match=f"vqa {new} is older than {current}"):
        refuse_older(first, second)
    refuse_older(first, manifest_of(files, version=current, name="another"))


def test_plugins_are_those_that_are_allowed() -> None:
    manifest = manifest_of(contents(), plugins=["ScaleTwice", "Other"])
    check_plugins(manifest, ["Other", "ScaleTwice", "More"])
    check_plugins(manifest_of(contents()), [])
    with pytest.raises(InputError, match="not allowed here: ScaleTwice"):
        check_plugins(manifest, ["Other"])
