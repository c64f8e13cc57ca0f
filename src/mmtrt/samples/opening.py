"""Where a set of samples comes from: folders, files, named sets, functions."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmtrt.artifacts import code_digest, directory_digest, file_digest, key_of, read_json
from mmtrt.errors import InputError, SampleError
from mmtrt.results import plain
from mmtrt.samples.core import LABEL, OUTPUT, Sample, SampleSet
from mmtrt.samples.npz import read_npz
from mmtrt.tensors import Array

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["import_object", "open_set"]

_SETS = Path("calibration/sets")
_ABOUT_BYTES = 4 << 20


def open_set(reference: str, *, count: int | None = None) -> SampleSet:
    """Open a set: a path, the name of a set in calibration/sets, or `package.module:function`.

    A path is a folder of `.npz` files, one stacked `.npz` or `.safetensors`, Polygraphy's JSON, or a set's
    `.toml`. The set's key tells `count` too. Raises SampleError that names what was looked for.
    """
    found = _opened(reference, count)
    if count is None and found.on_data:
        return found
    # A stage's result over one sample is none over a hundred, nor is one over what is no data one over data.
    return replace(found, key=key_of({"set": found.key, "count": count, "on_data": found.on_data}))


def _opened(reference: str, count: int | None) -> SampleSet:
    path = Path(reference)
    named = _SETS / f"{reference}.toml"
    if path.is_dir():
        return _folder(path, count)
    if path.is_file():
        return _file(path, count)
    if named.is_file():
        return _toml(named, count)
    if ":" in reference:
        return _function(reference, {}, count)
    known = sorted(p.stem for p in _SETS.glob("*.toml")) if _SETS.is_dir() else []
    near = get_close_matches(reference, known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise SampleError(
        f"no set of samples {reference!r}",
        fix=f"{hint}Give a folder of .npz files, an .npz, .safetensors or .json file, the name of a set in "
        f"{_SETS}/ ({', '.join(known) or 'there are none'}), or package.module:function.",
    )


def _folder(path: Path, count: int | None) -> SampleSet:
    files = sorted(p for p in path.glob("*.npz") if not p.name.startswith("."))
    if not files:
        raise SampleError(
            f"{path} holds no .npz files", fix="A folder set has one .npz a sample; an empty set is no set."
        )
    _same_count(path, len(files))

    return SampleSet(
        source=str(path),
        key=directory_digest(path, "*.npz"),
        read=lambda: (read_npz(file) for file in files),
        count=count,
        on_data=bool(_about(path).get("on_data", True)),
        read_inputs=lambda: (read_npz(file, without=(LABEL, OUTPUT)) for file in files),
    )


def _same_count(folder: Path, found: int) -> None:
    """Raise SampleError where a folder that mmtrt wrote has lost samples, or been given others."""
    written = _about(folder).get("count")
    if written is not None and written != found:
        raise SampleError(
            f"{folder} holds {found} samples; {written} were written",
            fix=f"If that is meant, remove {folder / 'set.json'}.",
        )


def _about(folder: Path) -> dict[str, Any]:
    """Return what mmtrt wrote about a folder's samples, nothing where it wrote none."""
    about = folder / "set.json"
    if about.is_file() and about.stat().st_size > _ABOUT_BYTES:
        raise SampleError(f"{about} has more than {_ABOUT_BYTES} bytes", fix="Write the set again.")
    told = read_json(about) if about.is_file() else {}
    return told if isinstance(told, dict) else {}


def _file(path: Path, count: int | None) -> SampleSet:
    readers: dict[str, Callable[[Path], Iterable[Sample]]] = {
        ".npz": _stacked_npz,
        ".safetensors": _stacked_safetensors,
        ".json": _polygraphy,
    }
    if path.suffix == ".toml":
        return _toml(path, count)
    if path.suffix not in readers:
        raise SampleError(
            f"{path}: a set can't be read from a {path.suffix or 'file without a suffix'}",
            fix="Known are .npz, .safetensors, .json (Polygraphy) and .toml files, and folders of .npz files.",
        )
    reader = readers[path.suffix]
    return SampleSet(source=str(path), key=file_digest(path), read=lambda: reader(path), count=count)


def _stacked_npz(path: Path) -> Iterator[Sample]:
    return _unstacked(read_npz(path), path)


def _stacked_safetensors(path: Path) -> Iterator[Sample]:
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise SampleError(f"{path}: reading it needs safetensors", fix="pip install 'mmtrt[export]'") from error
    try:
        arrays = load_file(path)
    except Exception as error:
        raise SampleError(f"{path} is no readable .safetensors: {error}") from error
    return _unstacked(arrays, path)


def _unstacked(arrays: Mapping[str, Array], path: Path) -> Iterator[Sample]:
    scalars = [name for name, array in arrays.items() if array.ndim == 0]
    if scalars:
        raise SampleError(f"{path}: {scalars[0]!r} has no sample axis", fix="Stack samples along axis 0.")
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
        raise SampleError(
            f"{path}: the inputs have unequal numbers of samples: {listed}",
            fix="Each event needs all of its modalities.",
        )
    return ({name: arrays[name][i] for name in arrays} for i in range(next(iter(counts.values()), 0)))


def _polygraphy(path: Path) -> Iterator[Sample]:
    try:
        from polygraphy.json import load_json
    except ImportError as error:
        raise SampleError(
            f"{path}: reading Polygraphy's JSON needs Polygraphy", fix="pip install 'mmtrt[onnx]'"
        ) from error
    try:
        rows = load_json(str(path))
    except Exception as error:
        raise SampleError(f"{path} is no readable Polygraphy JSON: {error}") from error
    return iter(rows)


def _toml(path: Path, count: int | None) -> SampleSet:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SampleError(f"{path} can't be read as TOML: {error}") from error
    known = {"source", "count", "digest", "arguments", "description"}
    for key in data:
        if key not in known:
            near = get_close_matches(key, sorted(known), n=1)
            raise SampleError(
                f"{path}: unknown key {key!r}",
                fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}.",
            )
    if not isinstance(data.get("source"), str):
        raise SampleError(f"{path} has no source", fix='Add source = "package.module:function" or a path.')
    _right_types(path, data)
    declared = data.get("count")
    wanted = count if count is not None else declared
    digest = data.get("digest") if wanted == declared else None
    if ":" in data["source"]:
        inner = _function(data["source"], data.get("arguments", {}), wanted)
    else:
        inner = open_set(str(path.parent / data["source"]), count=wanted)
    return SampleSet(
        source=f"{path.stem} ({inner.source})",
        key=key_of({"set": plain(data), "count": wanted, "inner": inner.key}),
        read=inner.read,
        count=wanted,
        digest=digest or inner.digest,
        on_data=inner.on_data,
        by_content=inner.by_content,
        read_inputs=inner.read_inputs,
    )


def _right_types(path: Path, data: Mapping[str, Any]) -> None:
    count = data.get("count", 1)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SampleError(f"{path}: count is {count!r}", fix="Give a number of samples, at least 1.")
    if not isinstance(data.get("arguments", {}), dict):
        raise SampleError(f"{path}: arguments is {data['arguments']!r}", fix="Give a table: [arguments].")


def _function(reference: str, arguments: Mapping[str, Any], count: int | None) -> SampleSet:
    function = import_object(reference)
    if not callable(function):
        raise SampleError(f"{reference} is no function", fix="Name a function that yields samples.")
    given = dict(arguments)
    if count is not None and "count" in _parameters(function):
        given["count"] = count

    def read() -> Iterable[Sample]:
        return function(**given)  # type: ignore[no-any-return]

    key = {"function": reference, "arguments": plain(given), "code": _code(function, reference)}
    return SampleSet(source=reference, key=key_of(key), read=read, count=count, by_content=False)


def _parameters(function: Callable[..., Any]) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # A builtin that doesn't tell.
        return ()


def _code(function: Callable[..., Any], reference: str) -> str:
    """Digest of the code beside a function; of the module named where it has none of its own, as a partial."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        file = getattr(sys.modules[reference.partition(":")[0]], "__file__", None)
    return code_digest(Path(file)) if file else ""


def import_object(reference: str) -> Any:
    """Import `package.module:name`; the current directory is on the path. InputError that says what failed."""
    module_name, _, name = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{reference}: there is no module {error.name!r}",
            fix="Modules are looked for in the current directory and in the environment.",
        ) from error
    except (Exception, SystemExit) as error:
        raise InputError(f"{reference}: importing it failed: {type(error).__name__}: {error}") from error
    try:
        found: Any = module
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        public = [n for n in vars(module) if not n.startswith("_")]
        near = get_close_matches(name, public, n=1)
        raise InputError(
            f"{reference}: {module_name} has no {name!r}",
            fix=f"Did you mean {near[0]!r}?" if near else None,
        ) from error
    return found
