"""The file that holds a pipeline together: which files its parts are, and what feeds what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmtrt
from mmtrt.artifacts import read_json, write_json
from mmtrt.errors import InputError
from mmtrt.parts.wiring import Wiring

__all__ = ["SUFFIX", "Manifest", "read_manifest", "write_manifest"]

SCHEMA = "mmtrt.pipeline/1"
SUFFIX = ".pipeline.json"
_AGAIN = "`mmtrt run` of the recipe writes it again."


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A pipeline's name and source, its wiring, its files, and the precision of each part in each chain.

    `files` maps a part, a precision and a kind (`onnx`, `engine`) to a file's name beside the manifest; `chains` maps
    a chain's name (`int8`) to each part's precision in it.
    """

    name: str
    source: str
    digest: str
    wiring: Wiring
    files: Mapping[str, Mapping[str, Mapping[str, str]]]
    chains: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.pipeline/1`."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "source": self.source,
            "digest": self.digest,
            "mmtrt": mmtrt.__version__,
            **self.wiring.to_json(),
            "files": {part: {p: dict(kinds) for p, kinds in found.items()} for part, found in self.files.items()},
            "chains": {name: dict(parts) for name, parts in self.chains.items()},
        }


def write_manifest(manifest: Manifest, folder: Path) -> Path:
    """Write `<name>.pipeline.json`, whole or not at all."""
    path = folder / f"{manifest.name}{SUFFIX}"
    write_json(path, manifest.to_json())
    return path


def read_manifest(path: Path) -> Manifest:
    """Read what `write_manifest` wrote; InputError where it is missing, broken, or names a file outside its folder."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(f"{path} is no {SCHEMA}", fix="`mmtrt export` of a source in several parts writes one.")
    try:
        found = Manifest(
            name=str(data["name"]),
            source=str(data["source"]),
            digest=str(data["digest"]),
            wiring=Wiring.from_json(data),
            files=data["files"],
            chains=data["chains"],
        )
        names = [name for part in found.files.values() for kinds in part.values() for name in kinds.values()]
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(f"{path} can't be read: {type(error).__name__}: {error}", fix="Export it again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{path} names the file {name!r}, which does not lie beside it", fix="Export it again.")
    _check_chains(path, found)
    return found


def _check_chains(path: Path, found: Manifest) -> None:
    """Raise InputError where a chain is anything else than each part in a precision that has files."""
    chains: Any = found.chains
    if not isinstance(chains, dict):
        raise InputError(f"{path}: chains is {chains!r}, no table", fix=_AGAIN)
    for name, parts in chains.items():
        if not isinstance(parts, dict) or parts.keys() != found.wiring.parts.keys():
            told = ", ".join(map(str, parts)) if isinstance(parts, (dict, list)) else repr(parts)
            raise InputError(
                f"{path}: the chain {name!r} has {told or 'no parts'}; the parts are {', '.join(found.wiring.parts)}",
                fix=_AGAIN,
            )
        for part, precision in parts.items():
            if not isinstance(precision, str) or precision not in found.files.get(part, {}):
                raise InputError(f"{path}: the chain {name!r} has no files of {part!r} in {precision!r}", fix=_AGAIN)
