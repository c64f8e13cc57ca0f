"""An engine for a target on this machine: from the bundle where it fits exactly, from the cache, else built."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mmtrt
from mmtrt.artifacts import key_of, machine_errors
from mmtrt.bundle.external_data import data_locations
from mmtrt.bundle.host_code import check_engine_code
from mmtrt.bundle.manifest import MANIFEST_BYTES, BundledEngine, BundledOnnx, Manifest
from mmtrt.deploy.directory import part_of, remove, sync, sync_tree
from mmtrt.engine import manifest as manifests
from mmtrt.engine.build import BuildOptions, EngineBuild, build_engine
from mmtrt.engine.flavours import Flavour, GpuInfo
from mmtrt.errors import BuildError, InputError
from mmtrt.results import Mismatch
from mmtrt.runtimes.tensorrt_api import LABELS, manifest_path
from mmtrt.tensors import Profile

__all__ = [
    "ReadyEngine",
    "Wanted",
    "bundled",
    "forget",
    "from_bundle",
    "made",
    "onnx_digest",
    "take",
    "tidy",
    "timing_name",
    "unfitting",
]

_ENGINE = "model.engine"
_TIMING = "timing.cache"
_KEPT = re.compile(r"[0-9a-f]{32}(\.bin)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """All that an engine depends on; `gpu` is the one here, None where there is none.

    `digest` is the ONNX's, with its weights; `calibration` and `model` go into the engine's manifest.
    """

    onnx: Path
    digest: str
    target: str
    precision: str
    profile: Profile
    options: BuildOptions
    flavour: Flavour
    gpu: GpuInfo | None
    calibration: Mapping[str, Any] | None = None
    model: Mapping[str, Any] | None = None

    @property
    def bound_to(self) -> tuple[str, str] | None:
        """The GPU's name and compute capability that the engine is for; None where it is for all of its flavour."""
        portable = self.flavour.name == "tensorrt-rtx" and self.options.compute_capability != "CURRENT"
        return None if portable or self.gpu is None else (self.gpu.name, self.gpu.compute_capability)

    @property
    def options_json(self) -> dict[str, Any]:
        """The builder's options, less what changes only how long it takes."""
        return {**self.options.to_json(), "timing_cache": None}

    @property
    def key(self) -> str:
        """Digest of all of it: engines differ from build to build, what goes in does not."""
        spans = {name: [list(s.min), list(s.opt), list(s.max)] for name, s in self.profile.items()}
        parts = {
            "mmtrt": mmtrt.__version__,
            "onnx": self.digest,
            "precision": self.precision,
            "profile": spans,
            "options": self.options_json,
            "flavor": [self.flavour.name, self.flavour.version],
            "gpu": self.bound_to,
        }
        return key_of(parts)[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyEngine:
    """An engine whose bytes are those of its manifest; `build_s` is None where it was not built now."""

    path: Path
    how: Literal["reused", "cached", "built"]
    manifest: manifests.Manifest
    build_s: float | None = None


def onnx_digest(manifest: Manifest, model: BundledOnnx) -> str:
    """Return what `mmtrt.onnx_files.model_digest` gives of a bundle's ONNX, from digests that were verified.

    InputError where the manifest says another one: an engine in the cache would be taken for that of another model.
    """
    found = manifest.files[model.path].sha256
    if model.data:
        weights = zip(data_locations(model), model.data, strict=True)
        found = key_of({"onnx": found, **{told: manifest.files[name].sha256 for told, name in weights}})
    if found != model.digest:
        raise InputError(f"the bundle's {model.path} is not the ONNX whose digest it tells", fix="Make it again.")
    return found


# ------------------------------------------------------------------------------------------- from the bundle


def bundled(manifest: Manifest, wanted: Wanted) -> BundledEngine | None:
    """Return the engine of a bundle that was made of just this, for this machine; None where there is none."""
    return next((engine for engine in manifest.engines if _fits(engine, wanted)), None)


def _fits(engine: BundledEngine, wanted: Wanted) -> bool:
    bound = None if engine.gpu is None else (engine.gpu, engine.compute_capability)
    return (
        (engine.onnx, engine.target, engine.precision) == (wanted.digest, wanted.target, wanted.precision)
        and (engine.flavor, engine.flavor_version) == (wanted.flavour.name, wanted.flavour.version)
        and bound == wanted.bound_to
        # What only runs where it was built, and does not say where, fits nowhere.
        and (bound is not None or wanted.flavour.name == "tensorrt-rtx")
    )


def unfitting(manifest: Manifest, wanted: Wanted) -> tuple[Mismatch, ...]:
    """Return why the bundle's engines for a target are not for this machine; empty where one is, or there are none."""
    if bundled(manifest, wanted) is not None:
        return ()
    return tuple(
        Mismatch(what=what, wanted=f"{wants}, which a bundled engine is for", found=has, fix=_BUILT, stops=False)
        for engine in manifest.engines
        if (engine.target, engine.onnx) == (wanted.target, wanted.digest)
        for what, wants, has in _apart(engine, wanted)
    )


_BUILT = "None is needed: the engine is built here."


def _apart(engine: BundledEngine, wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    theirs, ours = f"{LABELS[engine.flavor]} {engine.flavor_version}", str(wanted.flavour)
    if theirs != ours:
        yield "TensorRT version", theirs, ours
    if engine.gpu is not None and (engine.gpu, engine.compute_capability) != wanted.bound_to:
        here = f"{wanted.gpu.name} ({wanted.gpu.compute_capability})" if wanted.gpu else "none"
        yield "GPU type", f"{engine.gpu} ({engine.compute_capability})", here


def from_bundle(
    bundle: Path, manifest: Manifest, wanted: Wanted, folder: Path, note: Callable[[str], None]
) -> ReadyEngine | None:
    """Put the bundle's engine into `folder` where it fits exactly; else None, and `note` is told what differs.

    InputError where it carries native code that it was not asked to carry.
    """
    engine = bundled(manifest, wanted)
    if engine is None:
        return None
    if wanted.options.version_compatible:
        note(f"the bundle's engine {engine.path} is not used: it brings a runtime of its own, and one is built here")
        return None
    if manifest.files[engine.manifest].bytes > MANIFEST_BYTES:
        raise InputError(f"the bundle's {engine.manifest} has more than {MANIFEST_BYTES} bytes", fix="Make it again.")
    check_engine_code(bundle / engine.path)
    target = folder / _ENGINE
    shutil.copyfile(bundle / engine.path, target)
    shutil.copyfile(bundle / engine.manifest, manifest_path(target))
    differs = _differs(target, wanted)
    if differs is None:
        return ReadyEngine(path=target, how="reused", manifest=manifests.read(target))
    note(f"the bundle's engine {engine.path} is not used: {differs}")
    target.unlink()
    manifest_path(target).unlink()
    return None


def _differs(engine: Path, wanted: Wanted) -> str | None:
    """Return what an engine's manifest has otherwise than is wanted, None where nothing; altered bytes are that too."""
    try:
        told = manifests.verify(engine)
    except InputError as error:
        return error.message
    spans = {name: told.profile.get(name) for name in wanted.profile}
    pairs = {
        "ONNX": (told.onnx_digest, wanted.digest),
        "precision": (told.precision, wanted.precision),
        "flavor": ((told.flavor, told.flavor_version), (wanted.flavour.name, wanted.flavour.version)),
        "profile": (spans, dict(wanted.profile)),
        "options": ({**told.options, "timing_cache": None}, wanted.options_json),
    }
    return next((f"its {name} is another one" for name, (has, wants) in pairs.items() if has != wants), None)


# ----------------------------------------------------------------------------------------- cached, or built


def made(cache: Path, wanted: Wanted, seeds: Mapping[str, Path], note: Callable[[str], None]) -> ReadyEngine:
    """Return the engine from the cache, else build it there; errors are those of `build_engine`.

    `seeds` are timing caches to begin with where the board has none of its own, by `timing_name`.
    """
    folder = cache / "engines" / wanted.key
    if folder.is_dir():
        differs = _differs(folder / _ENGINE, wanted)
        if differs is None:
            os.utime(folder)
            return ReadyEngine(path=folder / _ENGINE, how="cached", manifest=manifests.read(folder / _ENGINE))
        note(f"an engine in the cache is not used: {differs}")
        shutil.rmtree(folder, ignore_errors=True)
    return _build_into(cache, folder, wanted, seeds, note)


def timing_name(flavour: str, version: str, gpu: str, capability: str) -> str:
    """Return what a timing cache is kept under: it is of use on the same GPU with the same version."""
    return key_of({"flavor": flavour, "version": version, "gpu": gpu, "compute_capability": capability})[:32]


def _build_into(
    cache: Path, folder: Path, wanted: Wanted, seeds: Mapping[str, Path], note: Callable[[str], None]
) -> ReadyEngine:
    with part_of(folder.parent) as part:
        options = replace(wanted.options, timing_cache=_timing(cache, wanted, seeds, part))
        built = build_engine(
            wanted.onnx, part / _ENGINE, profile=wanted.profile, options=options, flavour=wanted.flavour
        )
        for text in built.notes:
            note(text)
        if wanted.precision == "int8" and _without_int8(built):
            raise BuildError(
                f"{wanted.flavour} built no INT8 kernel from {wanted.onnx.name}",
                fix="Choose a target of another precision: this one's engine would be no INT8.",
            )
        written = manifests.write(
            built,
            onnx_digest=wanted.digest,
            precision=wanted.precision,
            calibration=wanted.calibration,
            model=wanted.model,
        )
        _keep_timing(cache, wanted, part)
        sync_tree(part)
        with machine_errors(str(folder)):
            part.rename(folder)
            sync(folder.parent)
    return ReadyEngine(path=folder / _ENGINE, how="built", manifest=written, build_s=built.build_s)


def _without_int8(built: EngineBuild) -> bool:
    """Tell whether the builder told its layers' types, and none that could be INT8 is."""
    counts = () if built.summary is None else (built.summary.gemm, built.summary.conv)
    told = [precision for count in counts for precision in count if precision]
    return bool(told) and "int8" not in told


def _timing(cache: Path, wanted: Wanted, seeds: Mapping[str, Path], part: Path) -> Path | None:
    """Put a copy of this board's timing cache where the builder reads and writes it: a kill harms only that."""
    if wanted.flavour.name != "tensorrt" or wanted.gpu is None:
        return None
    name = _timing_of(wanted)
    own = cache / "timing" / name
    source = own if own.is_file() else seeds.get(name)
    if source is not None:
        shutil.copyfile(source, part / _TIMING)
    return part / _TIMING


def _timing_of(wanted: Wanted) -> str:
    gpu = wanted.gpu
    names = (gpu.name, gpu.compute_capability) if gpu else ("", "")
    return timing_name(wanted.flavour.name, wanted.flavour.version, *names)


def _keep_timing(cache: Path, wanted: Wanted, part: Path) -> None:
    written = part / _TIMING
    if written.is_file():
        target = cache / "timing" / _timing_of(wanted)
        target.parent.mkdir(parents=True, exist_ok=True)
        sync(written)
        written.replace(target)
        sync(target.parent)


def take(ready: ReadyEngine, folder: Path) -> Path:
    """Copy an engine with what lies beside it into `folder`; a version stands without the cache."""
    target = folder / _ENGINE
    for source in (ready.path, manifest_path(ready.path), manifests.layers_path(ready.path)):
        copy = folder / source.name
        if source.is_file() and source != copy:
            shutil.copyfile(source, copy)
    return target


def forget(cache: Path, wanted: Wanted) -> None:
    """Remove an engine from the cache: one that did not say what it should, say."""
    shutil.rmtree(cache / "engines" / wanted.key, ignore_errors=True)


def tidy(cache: Path, most: int) -> None:
    """Keep what was used last in the cache: that many engines, and as many files of what a runtime compiled."""
    for folder in (cache / "engines", cache / "runtime"):
        paths = folder.iterdir() if folder.is_dir() else ()
        # What has another name is another's, or is being written.
        ours = [path for path in paths if _KEPT.fullmatch(path.name)]
        found = sorted(ours, key=lambda path: path.stat().st_mtime)
        for path in found[: max(len(found) - most, 0)]:
            remove(path)
