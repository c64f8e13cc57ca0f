"""What a path names: a deployment, a bundle, an engine or an ONNX; each is verified before anything of it is loaded."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import Literal

from mmtrt.artifacts import machine_errors, read_json
from mmtrt.bundle.archive import MANIFEST, OUTER
from mmtrt.bundle.external_data import check_external_data, check_operators, data_locations
from mmtrt.bundle.manifest import BundledEngine, Manifest
from mmtrt.bundle.opening import Opened, Trust, unpack, verify
from mmtrt.bundle.plain_json import plain_json
from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.preprocess import Preprocessing, parse_preprocessing
from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.tensorrt_api import LABELS, import_flavour, manifest_data

__all__ = ["Folder", "Found", "Runs", "find"]

Runs = Literal["engine", "onnx"]
_CURRENT, _ENGINE, _BUNDLE, _DEPLOYED = "current", "model.engine", "bundle", "deployed.json"
_ON_CPU = "Session(..., runs='onnx') runs a bundle's ONNX on the CPU."
_AGAIN = "Deploy it again: `mmtrt deploy FILE --to DIR`."


class Folder:
    """A private folder for what is unpacked, which goes with `close`, with its owner, or when the process ends."""

    def __init__(self) -> None:
        with machine_errors("a temporary folder"):
            self.path = Path(tempfile.mkdtemp(prefix="mmtrt-session-"))
        self.close = weakref.finalize(self, _remove, self.path, os.getpid())


def _remove(path: Path, process: int) -> None:
    # A forked child ends too, and its parent still runs from there.
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The file that runs, and what its bundle tells besides.

    `folder` is to be closed once nothing runs any more; `cuda` is what `device` returns, where it is open already.
    """

    file: Path
    device: Callable[[], Cuda]
    cuda: Cuda | None = None
    preprocessing: Preprocessing | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    folder: Folder | None = None

    def give_up(self) -> None:
        """Give everything back where nothing came to run."""
        if self.cuda is not None:
            self.cuda.close()
        if self.folder is not None:
            self.folder.close()


def find(path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]) -> Found:
    """Return what runs where `path` names a bundle, a deployment, an engine, its manifest or an ONNX.

    InputError where it is missing, altered or unsafe, MachineError where no engine of a bundle fits this machine.
    """
    if (path / _CURRENT).is_dir():
        return _deployment(path, runs=runs, target=target, trust=trust, device=device)
    if _is_bundle(path):
        return _bundle(path, runs=runs, target=target, trust=trust, device=device)
    if target is not None or trust is not None:
        raise UsageError(f"{path} is no bundle and no deployment, which have targets and signers")
    # A manifest is named for its engine: model.int8.engine.json.
    file = path.with_suffix("") if path.suffix == ".json" else path
    if not file.is_file():
        raise InputError(f"there is no file {file}", fix="`mmtrt build` makes an engine, `mmtrt export` an ONNX.")
    return Found(file=file, device=device)


def _is_bundle(path: Path) -> bool:
    if path.is_dir():
        return (path / MANIFEST).is_file() or (path / OUTER).is_file()
    try:
        with path.open("rb") as stream:
            return path.suffix == ".mmtrt" or stream.read(len(OUTER) + 1) == f"{OUTER}\0".encode()
    except OSError:
        return False


# ---------------------------------------------------------------------------------------------- deployments


def _deployment(
    path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]
) -> Found:
    # Resolved once: a deploy that switches meanwhile changes nothing here.
    version = (path / _CURRENT).resolve()
    deployed = read_json(version / _DEPLOYED)
    if not isinstance(deployed, dict) or deployed.get("schema") != "mmtrt.deploy/1":
        raise InputError(f"{version / _DEPLOYED} is not what a deploy writes", fix=_AGAIN)
    if target not in {None, deployed.get("target")}:
        raise UsageError(f"{path} is deployed for {deployed.get('target')!r}, not for {target!r}")
    if runs == "onnx":
        return _bundle(version / _BUNDLE, runs=runs, target=deployed.get("target"), trust=trust, device=device)
    opened = verify(version / _BUNDLE, trust)
    engine = version / _ENGINE
    told = manifest_data(engine)
    if told is None:
        raise InputError(f"{engine} has no manifest beside it", fix=_AGAIN)
    digest = (told.get("engine") or {}).get("sha256")
    if digest is None or digest != deployed.get("engine_sha256"):
        raise InputError(f"{engine} is not the engine that was deployed, by {_DEPLOYED}", fix=_AGAIN)
    if (told.get("onnx") or {}).get("sha256") not in {model.digest for model in opened.manifest.models.values()}:
        raise InputError(f"{engine} was built from another ONNX than the bundle's", fix=_AGAIN)
    return Found(
        file=engine,
        device=device,
        preprocessing=_preprocessing(version / _BUNDLE, opened),
        labels=_labels(version / _BUNDLE, opened),
    )


# -------------------------------------------------------------------------------------------------- bundles


def _bundle(path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]) -> Found:
    folder = Folder()
    try:
        # What is loaded is the copy that was verified, whatever becomes of the bundle.
        opened = unpack(path, folder.path, trust)
        _check_target(path, opened.manifest, target)
        preprocessing, labels = _preprocessing(folder.path, opened), _labels(folder.path, opened)
        if runs == "onnx":
            file = _onnx(path, folder.path, opened.manifest, target)
            return Found(file=file, device=device, folder=folder, preprocessing=preprocessing, labels=labels)
        engine, cuda = _engine(path, opened.manifest, target, device)
        file = _with_manifest(folder.path, engine)
        return Found(
            file=file,
            device=lambda: cuda,
            cuda=cuda,
            folder=folder,
            preprocessing=preprocessing,
            labels=labels,
        )
    except BaseException:
        folder.close()
        raise


def _check_target(path: Path, manifest: Manifest, target: str | None) -> None:
    if target is not None and target not in manifest.targets:
        near = get_close_matches(target, manifest.targets, n=1)
        fix = f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(manifest.targets)}."
        raise UsageError(f"{path} has no target {target!r}", fix=fix)


def _onnx(path: Path, folder: Path, manifest: Manifest, target: str | None) -> Path:
    """Return the ONNX of the precision that the target runs, or all targets where none is named.

    InputError where it would have ONNX Runtime open or load anything but its own weights.
    """
    rows = manifest.targets if target is None else {target: manifest.targets[target]}
    precisions = {row.precision for row in rows.values()}
    if len(precisions) > 1:
        told = ", ".join(f"{name} runs {row.precision}" for name, row in rows.items())
        raise UsageError(f"{path} has several precisions: {told}", fix=f"Name one: target={next(iter(rows))!r}.")
    model = manifest.models[precisions.pop()]
    file = folder / model.path
    check_external_data(file, data_locations(model))
    check_operators(file, ())
    return file


def _engine(
    path: Path, manifest: Manifest, target: str | None, device: Callable[[], Cuda]
) -> tuple[BundledEngine, Cuda]:
    """Return an engine that this machine can run as it is, and the GPU, which is open.

    One that was built for this very GPU comes first, then the bundle's order decides.
    """
    fix = f"`mmtrt deploy {path.name} --to DIR` builds one, and Session('DIR') runs it. {_ON_CPU}"
    named = [engine for engine in manifest.engines if target in {None, engine.target}]
    reasons = {engine.path: why for engine in named if (why := _misfit(engine, manifest.plugins))}
    left = [engine for engine in named if engine.path not in reasons]
    if left:
        cuda = _gpu(device)
        here = (cuda.info.name, cuda.info.compute_capability)
        for engine in left:
            if engine.gpu is not None and (engine.gpu, engine.compute_capability) != here:
                reasons[engine.path] = f"is for {engine.gpu}, and this is {here[0]}"
        fitting = [engine for engine in left if engine.path not in reasons]
        if fitting:
            return min(fitting, key=lambda engine: engine.gpu is None), cuda
        cuda.close()
    told = "; ".join(f"{name} {why}" for name, why in reasons.items())
    raise MachineError(
        f"{path} holds no engine that fits this machine: {told}" if told else f"{path} holds no engine", fix=fix
    )


def _gpu(device: Callable[[], Cuda]) -> Cuda:
    try:
        return device()
    except MachineError as error:
        raise MachineError(error.message, fix=f"{error.fix or ''} {_ON_CPU}".strip()) from error


def _misfit(engine: BundledEngine, plugins: Sequence[str]) -> str:
    """Say why an engine can't run here, as far as it is known without the GPU; empty where nothing speaks against."""
    if plugins:
        return f"needs the plugins {', '.join(plugins)}, which a deploy holds against those that its target allows"
    if engine.gpu is None and engine.flavor != "tensorrt-rtx":
        return "does not say which GPU it was built for"
    try:
        version = str(import_flavour(engine.flavor).__version__)
    except MachineError as error:
        return f"needs {LABELS[engine.flavor]} {engine.flavor_version}: {error.message}"
    if version != engine.flavor_version:
        return f"needs {LABELS[engine.flavor]} {engine.flavor_version}, and this machine has {version}"
    return ""


def _with_manifest(folder: Path, engine: BundledEngine) -> Path:
    """Return the engine's file, with its manifest where a session looks for it."""
    file = folder / engine.path
    beside = file.with_name(f"{file.name}.json")
    if folder / engine.manifest != beside:
        shutil.copyfile(folder / engine.manifest, beside)
    return file


# ----------------------------------------------------------------------------------- what a bundle tells besides


def _verified(folder: Path, opened: Opened, name: str) -> bytes:
    """Return the bytes of a file, which are those of the manifest also if the file was changed since."""
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise InputError(f"can't read {folder / name}: {error.strerror}") from error
    if sha256(data).hexdigest() != opened.manifest.files[name].sha256:
        raise InputError(f"{folder / name} was altered while it was read", fix="Get the bundle again.")
    return data


def _preprocessing(folder: Path, opened: Opened) -> Preprocessing | None:
    name = opened.manifest.preprocessing
    if name is None:
        return None
    return parse_preprocessing(_json(_verified(folder, opened, name), name), str(opened.path))


def _labels(folder: Path, opened: Opened) -> dict[str, tuple[str, ...]]:
    labels = {}
    for output, name in opened.manifest.labels.items():
        told = _json(_verified(folder, opened, name), name)
        if not isinstance(told, list) or not all(isinstance(label, str) for label in told):
            raise InputError(f"{name} of {opened.path} is no list of names")
        labels[output] = tuple(told)
    return labels


def _json(data: bytes, name: str) -> object:
    try:
        return plain_json(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON: {error}") from error
