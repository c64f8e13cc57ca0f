from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmtrt.artifacts import write_json
from mmtrt.errors import InputError, MmtrtError, SampleError
from mmtrt.samples import SampleSet, import_object, open_set, split_label, with_prefix, write_samples
from mmtrt.samples.random import random_set
from mmtrt.tensors import Array, ModelSpec, TensorSpec

FUNCTIONS = """
import functools
import numpy as np

class Events:
    def __call__(self, count=2):
        return [{"x": np.full(2, i)} for i in range(count)]

def events(count=4, first=0, since=None):
    for index in range(first, first + count):
        yield {"x": np.full(2, index), "label.y": np.asarray(index)}

def endless():
    index = 0
    while True:
        yield {"x": np.full(2, index)}
        index += 1

def broken():
    yield {"x": np.zeros(2)}
    yield {"x": np.zeros(2)}
    raise ValueError("no such picture")

def ragged_list():
    yield {"x": [[1, 2], [3]]}

def three():
    return [{"x": np.zeros(2)}] * 3

def nothing():
    return None

def rows():
    return [[1, 2]]

def numbered():
    return [{0: np.zeros(2)}]

events_of_object = Events()
events_of_partial = functools.partial(events, first=7)
builtin = dict.fromkeys
untold = map
number = 5
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current directory with a module of functions; what they import goes again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "events_for_tests.py").write_text(FUNCTIONS, encoding="utf-8")
    yield tmp_path
    for name in ("events_for_tests", "breaks_at_import"):
        sys.modules.pop(name, None)


def sample(index: int) -> dict[str, Array]:
    return {"x": np.full(3, index, np.float32), "ids": np.arange(index + 1), "label.y": np.asarray(index)}


def folder(name: str = "set", count: int = 3) -> Path:
    write_samples(Path(name), (sample(i) for i in range(count)), about={"source": "a test"})
    return Path(name)


def xs(samples: SampleSet) -> list[float]:
    return [float(s["x"].reshape(-1)[0]) for s in samples]


def toml(text: str, name: str = "named") -> Path:
    path = Path("calibration/sets", f"{name}.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def digest_of(reference: str, **kwargs: Any) -> str:
    """The digest that an error tells to put in."""
    opened = open_set(reference, **kwargs)
    wrong = SampleSet(source="x", key="x", read=opened.read, count=opened.count, digest="wrong")
    with pytest.raises(SampleError) as caught:
        list(wrong)
    found = re.search('digest = "([0-9a-f]{64})"', str(caught.value.fix))
    assert found
    return found[1]


# ----------------------------------------------------------------------------------------------------- folders


def test_a_folder_comes_back_as_it_was_written() -> None:
    opened = open_set(str(folder()))
    for _ in range(2):
        for index, got in enumerate(opened):
            wanted = sample(index)
            assert got.keys() == wanted.keys()
            for name, array in wanted.items():
                np.testing.assert_array_equal(got[name], array, strict=True)
    assert index == 2
    assert json.loads(Path("set/set.json").read_text(encoding="utf-8")) == {"source": "a test", "count": 3}


def test_equal_samples_give_equal_bytes_and_keys() -> None:
    assert open_set(str(folder("a"))).key == open_set(str(folder("b"))).key
    assert open_set(str(folder("c", 4))).key != open_set("a").key
    assert Path("a/00000.npz").read_bytes() == Path("b/00000.npz").read_bytes()


@pytest.mark.parametrize("reference", ["set", "set.npz", "named", "outer", "events_for_tests:endless"])
def test_the_key_tells_how_many_samples_were_asked_for(reference: str) -> None:
    folder()
    np.savez("set.npz", x=np.zeros((3, 2)))
    toml('source = "../../set"\n')
    toml('source = "named.toml"\n', "outer")
    keys = [open_set(reference, count=count).key for count in (None, 1, 2)]
    assert len(set(keys)) == 3
    assert keys == [open_set(reference, count=count).key for count in (None, 1, 2)]


def test_samples_that_are_no_data_are_none_through_a_set_s_file() -> None:
    folder("data")
    write_samples(Path("set"), (sample(i) for i in range(3)), about={"on_data": False})
    toml('source = "../../set"\ncount = 2\n')
    toml('source = "named.toml"\n', "outer")
    for reference in ("set", "named", "outer"):
        assert not open_set(reference).on_data
    assert open_set("data").on_data
    assert open_set("set").key != open_set("data").key, "what was made of these carries it on"


def test_a_strided_array_is_written_whole() -> None:
    array = np.arange(12.0).reshape(3, 4)[:, ::2].T
    write_samples(Path("set"), [{"x": array}], about={})
    np.testing.assert_array_equal(next(iter(open_set("set")))["x"], array)


@pytest.mark.parametrize(
    "array",
    [np.zeros((0, 3), np.float32), np.float32(3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.ones(2, ">f4")],
    ids=["empty", "number", "column-major", "big-endian"],
)
def test_any_array_is_read_as_numpy_reads_it(array: Array) -> None:
    Path("set").mkdir()
    np.savez("set/0.npz", x=array)
    [sample] = open_set("set")
    with np.load("set/0.npz") as own:
        assert sample["x"].dtype == own["x"].dtype
        assert sample["x"].flags.writeable
        np.testing.assert_array_equal(sample["x"], own["x"])


def test_a_folder_that_lost_a_sample_is_told() -> None:
    folder()
    Path("set/00001.npz").unlink()
    with pytest.raises(SampleError, match="holds 2 samples; 3 were written"):
        open_set("set")
    for other in ({"source": "ours"}, ["ours"], None):
        write_json(Path("set/set.json"), other)
        assert xs(open_set("set")) == [0, 2]
    Path("set/set.json").unlink()
    assert xs(open_set("set")) == [0, 2]


def test_inputs_alone_can_be_read() -> None:
    stacked = {"x": np.zeros((2, 3)), "label.y": np.zeros(2)}
    np.savez("stacked.npz", **stacked)  # type: ignore[arg-type]
    opened = open_set(str(folder()))
    assert [set(s) for s in opened.inputs_only()] == [{"x", "ids"}] * 3
    assert xs(opened.inputs_only()) == xs(opened)
    # Where it saves nothing, or where a digest covers the labels too, all is read.
    for whole in (open_set("stacked.npz"), replace(opened, digest=digest_of("set"))):
        assert [set(s) for s in whole.inputs_only()] == [set(s) for s in whole]


def test_hidden_files_are_no_samples() -> None:
    folder()
    Path("set/.00000.npz.1.part.npz").write_bytes(b"half")
    assert xs(open_set("set")) == [0, 1, 2]


def test_an_empty_folder_is_no_set() -> None:
    Path("empty").mkdir()
    with pytest.raises(SampleError, match=r"holds no \.npz files"):
        open_set("empty")


@pytest.mark.parametrize("keep", [0, 1, 40, -40, -1])
def test_a_truncated_sample_is_told_by_its_name(keep: int) -> None:
    path = folder() / "00001.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SampleError, match=r"00001\.npz is no readable \.npz"):
        list(open_set("set"))


def test_damaged_bytes_are_told() -> None:
    np.savez_compressed("set.npz", x=np.random.default_rng(0).random((4, 100)))
    data = bytearray(Path("set.npz").read_bytes())
    data[200:260] = bytes(60)
    Path("set.npz").write_bytes(data)
    with pytest.raises(SampleError, match=r"set\.npz is no readable \.npz"):
        list(open_set("set.npz"))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "boom",))

    np.savez("set.npz", x=np.array([Bomb()], dtype=object))
    np.save("raw.npy", np.array([Bomb()], dtype=object))
    Path("raw.npy").rename("raw.npz")
    Path("boom").unlink(missing_ok=True)
    for name in ("set.npz", "raw.npz"):
        with pytest.raises(SampleError, match=rf"{name} is no readable \.npz"):
            list(open_set(name))
    assert not Path("boom").exists()


# ------------------------------------------------------------------------------------------------ stacked files


def test_a_stacked_npz_is_taken_apart() -> None:
    np.savez("set.npz", x=np.arange(6).reshape(3, 2), y=np.arange(3))
    got = list(open_set("set.npz"))
    assert [s["x"].tolist() for s in got] == [[0, 1], [2, 3], [4, 5]]
    assert [s["y"].shape for s in got] == [()] * 3


def test_a_stacked_safetensors_is_taken_apart() -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    numpy.save_file({"x": np.arange(6, dtype=np.float32).reshape(3, 2)}, "set.safetensors")
    assert xs(open_set("set.safetensors")) == [0, 2, 4]
    Path("set.safetensors").write_bytes(b"junk")
    with pytest.raises(SampleError, match=r"no readable \.safetensors"):
        list(open_set("set.safetensors"))


@pytest.mark.parametrize(
    ("file", "module"), [("set.safetensors", "safetensors.numpy"), ("set.json", "polygraphy.json")]
)
def test_a_format_without_its_library_is_told(file: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(file).write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SampleError, match="reading") as caught:
        list(open_set(file))
    assert "pip install" in str(caught.value.fix)


def test_unequal_counts_are_refused() -> None:
    np.savez("set.npz", image=np.zeros((3, 2)), ids=np.zeros((2, 2)))
    with pytest.raises(SampleError, match="unequal numbers of samples: ids 2, image 3"):
        list(open_set("set.npz"))


def test_a_number_has_no_samples() -> None:
    np.savez("set.npz", image=np.zeros((3, 2)), scale=np.float32(1))
    with pytest.raises(SampleError, match="'scale' has no sample axis"):
        list(open_set("set.npz"))


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros((0, 2))}])
def test_a_stacked_file_of_nothing_is_no_set(arrays: dict[str, Array]) -> None:
    np.savez("set.npz", **arrays)
    with pytest.raises(SampleError, match="holds no samples"):
        list(open_set("set.npz"))


@pytest.fixture
def polygraphy_json(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Polygraphy's module, kept from importing torch, which takes it seconds."""
    monkeypatch.setitem(sys.modules, "torch", None)
    return pytest.importorskip("polygraphy.json")


def test_polygraphy_s_json_is_read(polygraphy_json: Any) -> None:
    rows = [{"x": np.full((1, 3), i, np.float32)} for i in range(3)]
    polygraphy_json.save_json(rows, "set.json")
    assert xs(open_set("set.json")) == [0, 1, 2]


@pytest.mark.parametrize("text", ["{", '{"x": 1}', "[1]", "5", "[]"])
def test_json_of_another_kind_is_told(polygraphy_json: Any, text: str) -> None:
    Path("set.json").write_text(text, encoding="utf-8")
    with pytest.raises(SampleError, match=r"set\.json"):
        list(open_set("set.json"))


@pytest.mark.parametrize("name", ["set.csv", "set"])
def test_other_files_are_refused(name: str) -> None:
    Path(name).touch()
    with pytest.raises(SampleError, match="a set can't be read from a"):
        open_set(name)


# ---------------------------------------------------------------------------------------------------- functions


def test_a_function_yields_samples_again_and_again() -> None:
    opened = open_set("events_for_tests:events")
    assert xs(opened) == xs(opened) == [0, 1, 2, 3]
    assert xs(open_set("events_for_tests:events", count=2)) == [0, 1]
    assert xs(open_set("events_for_tests:events", count=6)) == [0, 1, 2, 3, 4, 5], "`count` is passed on"
    assert xs(open_set("events_for_tests:endless", count=3)) == [0, 1, 2], "and cut where it can't be"


def test_the_key_tells_function_count_and_code(here: Path) -> None:
    keys = [open_set("events_for_tests:events", count=count).key for count in (None, 2, 3)]
    keys.append(open_set("events_for_tests:events_of_object", count=2).key)
    assert len(set(keys)) == 4
    (here / "beside.py").touch()
    assert open_set("events_for_tests:events").key != keys[0]
    assert open_set("events_for_tests:events_of_object", count=2).key != keys[3]


def test_objects_and_partials_are_functions_too() -> None:
    assert xs(open_set("events_for_tests:events_of_object", count=3)) == [0, 1, 2]
    assert xs(open_set("events_for_tests:events_of_partial", count=2)) == [7, 8]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", r"sample 2 could not be read: ValueError: no such picture"),
        ("ragged_list", r"sample 0 could not be read: ValueError"),
        ("nothing", r"sample 0 could not be read: TypeError"),
        ("builtin", r"sample 0 could not be read: TypeError"),
        ("rows", r"sample 0 is a list, not a dict of arrays"),
        ("numbered", r"sample 0 has the key 0, which is no name"),
    ],
)
def test_what_goes_wrong_in_a_source_is_a_sample_error(function: str, message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        list(open_set(f"events_for_tests:{function}"))
    assert f"events_for_tests:{function}" in caught.value.message


def test_a_builtin_that_hides_its_parameters_is_no_other_error() -> None:
    with pytest.raises(SampleError, match="sample 0 could not be read: TypeError"):
        list(open_set("events_for_tests:untold", count=2))


def test_our_own_errors_in_a_source_stay_what_they_are() -> None:
    def read() -> Iterator[dict[str, Array]]:
        raise InputError("as it is")
        yield {}

    with pytest.raises(InputError, match=r"^as it is$"):
        list(SampleSet(source="x", key="x", read=read))


def test_a_number_is_no_function() -> None:
    with pytest.raises(SampleError, match="is no function"):
        open_set("events_for_tests:number")


@pytest.mark.parametrize(
    ("reference", "message", "fix"),
    [
        ("no_such_module:f", "there is no module 'no_such_module'", "current directory"),
        ("events_for_tests:evnts", "has no 'evnts'", "Did you mean 'events'?"),
        ("events_for_tests:zzzzzz", "has no 'zzzzzz'", "None"),
        ("events_for_tests:", "has no ''", ""),
        ("breaks_at_import:f", "importing it failed: ZeroDivisionError", ""),
        (":f", "importing it failed", ""),
    ],
)
def test_what_can_t_be_imported_is_told(here: Path, reference: str, message: str, fix: str) -> None:
    (here / "breaks_at_import.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        import_object(reference)
    assert fix in str(caught.value.fix)


def test_names_inside_names_are_found() -> None:
    assert import_object("events_for_tests:Events.__call__").__name__ == "__call__"


# --------------------------------------------------------------------------------------------------- named sets


def test_a_named_set_is_found_from_the_current_directory() -> None:
    toml('source = "events_for_tests:events"\ncount = 3\n[arguments]\nfirst = 5\nsince = 2020-01-01\n')
    opened = open_set("named")
    assert xs(opened) == [5, 6, 7]
    assert opened.source == "named (events_for_tests:events)"
    assert xs(open_set("named", count=2)) == [5, 6]
    assert opened.key != open_set("named", count=2).key


def test_a_set_s_file_may_be_named_by_its_path() -> None:
    folder("calibration/samples/three")
    path = toml('source = "../samples/three"\n')
    assert xs(open_set(str(path))) == xs(open_set("named")) == [0, 1, 2]


def test_arguments_and_code_are_in_the_key() -> None:
    texts = ["", "[arguments]\nfirst = 1\n", "[arguments]\nfirst = 2\n"]
    keys = []
    for text in texts:
        toml(f'source = "events_for_tests:events"\n{text}')
        keys.append(open_set("named").key)
    assert len(set(keys)) == 3


def test_a_set_whose_digest_holds_is_read() -> None:
    digest = digest_of("events_for_tests:events", count=3)
    toml(f'source = "events_for_tests:events"\ncount = 3\ndigest = "{digest}"\n')
    assert xs(open_set("named")) == [0, 1, 2]
    assert xs(open_set("named", count=2)) == [0, 1], "the digest is that of the whole set"


def test_other_samples_than_the_digest_says_are_an_error() -> None:
    digest = digest_of("events_for_tests:events", count=3)
    toml(f'source = "events_for_tests:events"\ncount = 3\ndigest = "{digest}"\n[arguments]\nfirst = 1\n')
    with pytest.raises(SampleError, match="yields other samples than its digest says"):
        list(open_set("named"))


def test_the_digest_of_a_set_inside_a_set_holds_too() -> None:
    toml('source = "events_for_tests:events"\ncount = 3\ndigest = "00"\n', "inner")
    toml('source = "inner.toml"\ncount = 3\n')
    with pytest.raises(SampleError, match="other samples than its digest says"):
        list(open_set("named"))


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("source = ", "can't be read as TOML", ""),
        ('sorce = "x"', "unknown key 'sorce'", "Did you mean 'source'?"),
        ('source = "x"\nzzz = 1', "unknown key 'zzz'", "Known are arguments, count"),
        ("count = 3", "has no source", ""),
        ("source = 3", "has no source", ""),
        ('source = "events_for_tests:events"\ncount = "3"', "count is '3'", "at least 1"),
        ('source = "events_for_tests:events"\ncount = true', "count is True", ""),
        ('source = "events_for_tests:events"\ncount = 0', "count is 0", ""),
        ('source = "events_for_tests:events"\narguments = 5', "arguments is 5", "[arguments]"),
        ('source = "nowhere"', "no set of samples", ""),
    ],
)
def test_a_wrong_set_file_is_told(text: str, message: str, fix: str) -> None:
    toml(text)
    with pytest.raises(SampleError) as caught:
        open_set("named")
    assert message in caught.value.message
    assert fix in str(caught.value.fix)


def test_an_argument_that_the_function_does_not_know_is_told() -> None:
    toml('source = "events_for_tests:events"\n[arguments]\nfrist = 1\n')
    with pytest.raises(SampleError, match="unexpected keyword argument 'frist'"):
        list(open_set("named"))


def test_a_name_that_nothing_bears_is_told_with_the_nearest() -> None:
    with pytest.raises(SampleError, match="no set of samples 'namd'") as caught:
        open_set("namd")
    assert "there are none" in str(caught.value.fix)
    toml('source = "events_for_tests:events"')
    with pytest.raises(SampleError) as caught:
        open_set("namd")
    assert "Did you mean 'named'?" in str(caught.value.fix)


# -------------------------------------------------------------------------------------------------- set, random


@pytest.mark.parametrize("reference", ["set", "set.npz", "events_for_tests:three"])
def test_fewer_than_asked_is_an_error(reference: str) -> None:
    folder()
    np.savez("set.npz", x=np.zeros((3, 2)))
    with pytest.raises(SampleError, match="gives 3 samples where 4 were asked for"):
        list(open_set(reference, count=4))
    assert len(list(open_set("set", count=3))) == 3


def test_no_sample_is_an_error() -> None:
    with pytest.raises(SampleError, match="s holds no samples"):
        list(SampleSet(source="s", key="k", read=list))


def test_samples_are_parted() -> None:
    given = {"x": np.zeros(1), "label.y": np.ones(1), "output.z": np.ones(2)}
    inputs, labels = split_label(given)
    assert (inputs.keys(), labels.keys()) == ({"x"}, {"y"})
    assert with_prefix(given, "output.").keys() == {"z"}


def test_an_error_while_writing_leaves_no_folder() -> None:
    with pytest.raises(MmtrtError):
        write_samples(Path("set"), SampleSet(source="s", key="k", read=list), about={})
    assert not Path("set").exists()


def test_random_samples_fit_the_model_and_say_what_they_are() -> None:
    spec = ModelSpec(
        inputs=(
            TensorSpec(name="image", dtype="float16", shape=("batch", 3, "side")),
            TensorSpec(name="ids", dtype="int64", shape=("batch", "text")),
            TensorSpec(name="mask", dtype="bool", shape=("batch", "text")),
            TensorSpec(name="rest", dtype="float32", shape=("batch", "unknown")),
        ),
        outputs=(),
        ranges={"batch": (1, 2, 4), "text": (2, 3, 9)},
        limits={"ids": (5, 7)},
    )
    drawn = random_set(spec, 30)
    got = list(drawn)
    assert not drawn.on_data
    assert len(got) == 30
    assert {str(s["image"].dtype) for s in got} == {"float16"}
    assert got[0]["image"].shape == (3, 1)
    assert got[0]["rest"].shape == (1,)
    assert all(s["ids"].shape == s["mask"].shape for s in got)
    assert {s["ids"].shape[0] for s in got} <= set(range(2, 10))
    assert {int(i) for s in got for i in s["ids"]} == {5, 6, 7}
    assert all(s["mask"].all() for s in got)
    np.testing.assert_array_equal(got[3]["image"], list(drawn)[3]["image"])
