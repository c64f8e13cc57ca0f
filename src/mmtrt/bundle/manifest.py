"""The manifest of a bundle, `bundle.json`: what is in it, and what was known of it when it was made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mmtrt.artifacts import json_text
from mmtrt.bundle.canonical import FILE_BYTES, FILES, check_name, check_names
from mmtrt.bundle.plain_json import plain_json
from mmtrt.errors import InputError

__all__ = [
    "MANIFEST_BYTES",
    "SCHEMA",
    "BundledEngine",
    "BundledOnnx",
    "BundledTarget",
    "Entry",
    "Manifest",
    "TimingCache",
    "check_name",
    "check_plugins",
    "parse_manifest",
    "refuse_older",
    "version_key",
]

SCHEMA = "mmtrt.bundle/1"
MANIFEST_BYTES = 4 << 20
"""A larger manifest is refused before it is read."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Plain = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
"""A name that may become a part of a path."""

Precision = Literal["fp32", "fp16", "int8"]
Flavor = Literal["tensorrt", "tensorrt-rtx"]


Name = Annotated[str, Field(max_length=100)]


class _Frozen(BaseModel):
    # An infinity within what is free is an error where it is written, not a null.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, ser_json_inf_nan="constants"
    )


class Entry(_Frozen):
    """One file: its SHA-256 in hex, and its size in bytes."""

    sha256: Digest
    bytes: Annotated[int, Field(ge=0, le=FILE_BYTES)]


class BundledOnnx(_Frozen):
    """The model in one precision: its ONNX, the files of its weights, and what it was held to and reached.

    `digest` is `mmtrt.onnx_files.model_digest` of it, which engines name; `budget` is for golden samples too, in
    `mmtrt check`'s words; `measured` what the checks gave, by output.
    """

    path: Name
    digest: Digest
    data: list[Name] = []
    budget: dict[str, float] = {}
    calibration: dict[str, Any] | None = None
    measured: dict[str, Any] = {}


class BundledTarget(_Frozen):
    """A machine that the bundle is for: its target file's settings, and the precision that it runs."""

    precision: Precision
    settings: dict[str, Any]


class BundledEngine(_Frozen):
    """An engine that was built already, and what it needs to be used as it is.

    `gpu` is the GPU's name and `compute_capability` its capability (`8.7`), both None where the engine was built ahead
    of time, for all GPUs that its flavour is portable over.
    """

    path: Name
    manifest: Name
    target: Plain
    precision: Precision
    onnx: Digest
    flavor: Flavor
    flavor_version: Plain
    gpu: str | None = None
    compute_capability: str | None = None


class TimingCache(_Frozen):
    """A timing cache of TensorRT; it is of use on the same GPU, with the same version."""

    path: Name
    flavor: Flavor
    flavor_version: Plain
    gpu: str
    compute_capability: str


class Manifest(_Frozen):
    """All that a bundle says of itself.

    `files` holds every file but `bundle.sha256`, `bundle.json` and `bundle.sig`. `spec` is `ModelSpec.to_json`,
    `recipe` the resolved recipe with its digest. `golden` is the folder of the golden samples, `preprocessing` the file
    that tells how inputs are made of pictures and text, `labels` maps an output to the file of its classes' names.
    `plugins` names the operators that are TensorRT plugins; the machine's owner allows them, nothing in here does.
    """

    schema_: Literal["mmtrt.bundle/1"] = Field(alias="schema")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")]
    mmtrt: str
    files: Annotated[dict[Name, Entry], Field(min_length=1, max_length=FILES)]
    spec: dict[str, Any]
    recipe: dict[str, Any]
    models: Annotated[dict[Precision, BundledOnnx], Field(min_length=1)]
    targets: Annotated[dict[Plain, BundledTarget], Field(min_length=1)]
    golden: Name
    engines: list[BundledEngine] = []
    timing_caches: list[TimingCache] = []
    preprocessing: Name | None = None
    labels: dict[str, Name] = {}
    plugins: list[str] = []

    @field_validator("files")
    @classmethod
    def _plain(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        check_names(files)
        return files

    @model_validator(mode="after")
    def _there(self) -> Manifest:
        for name in self._named():
            if name not in self.files:
                raise ValueError(f"{name!r} is spoken of, and is not among the files")
        if not any(name.startswith(f"{self.golden}/") for name in self.files):
            raise ValueError(f"there are no golden samples in {self.golden!r}")
        for target, row in self.targets.items():
            if row.precision not in self.models:
                raise ValueError(f"target {target!r} runs {row.precision}, and there is no such model")
        return self

    def _named(self) -> list[str]:
        models = [name for model in self.models.values() for name in (model.path, *model.data)]
        engines = [name for engine in self.engines for name in (engine.path, engine.manifest)]
        caches = [cache.path for cache in self.timing_caches]
        made = [self.preprocessing] if self.preprocessing is not None else []
        return [*models, *engines, *caches, *made, *self.labels.values()]

    def to_bytes(self) -> bytes:
        """Return the file's bytes, the same for the same content; InputError where a reader would refuse them."""
        try:
            data = (json_text(self.model_dump(mode="json", by_alias=True)) + "\n").encode()
            plain_json(data)
        except ValueError as error:
            raise InputError(f"the manifest of {self.name} can't be written: {error}", fix=_LOOK) from error
        if len(data) > MANIFEST_BYTES:
            raise InputError(
                f"the manifest of {self.name} has {len(data)} bytes, more than {MANIFEST_BYTES}", fix=_LOOK
            )
        return data


def parse_manifest(data: bytes, what: str) -> Manifest:
    """Read a manifest whose digest was verified; InputError names `what` and the first thing that is wrong."""
    try:
        return Manifest.model_validate(plain_json(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"the manifest of {what}: {where}: {first['msg']}"[:500], fix=_MEND) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"the manifest of {what} can't be read: {error}"[:500], fix=_MEND) from error


_LOOK = "Look for it in the recipe, and in what the model's export says of it."
_MEND = "It was made by another version of mmtrt, or by something else: make the bundle again."


def refuse_older(new: Manifest, current: Manifest) -> None:
    """Raise InputError where `new` would put an older version over a newer one of the same name.

    Another bundle under the same version is none; bundles of two names have no order.
    """
    if new.name == current.name and version_key(new.version) < version_key(current.version):
        raise InputError(
            f"{new.name} {new.version} is older than {current.version}, which is deployed",
            fix="Deploy a newer version, or go back to the previous one by mmtrt deploy --rollback.",
        )


def check_plugins(manifest: Manifest, allowed: Collection[str]) -> None:
    """Raise InputError where a bundle needs a plugin that the machine's owner did not allow."""
    if unknown := sorted(set(manifest.plugins) - set(allowed)):
        raise InputError(
            f"{manifest.name} {manifest.version} needs plugins that are not allowed here: {', '.join(unknown)}",
            fix="A plugin is native code: allow it with --allow-plugin only where you know whose it is.",
        )


def version_key(version: str) -> tuple[int, ...]:
    """Return what orders versions: `1.10` is newer than `1.9`, and `1.0` the same as `1`."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
