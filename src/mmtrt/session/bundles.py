"""What runs of a bundle or of a deployment, verified before anything of it is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path

from mmtrt.artifacts import file_digest, read_json
from mmtrt.bundle.external_data import check_external_data, check_operators, data_locations
from mmtrt.bundle.host_code import check_engine_code
from mmtrt.bundle.manifest import MANIFEST_BYTES, BundledEngine, Manifest
from mmtrt.bundle.opening import Opened, Trust, unpack, verify
from mmtrt.bundle.plain_json import plain_json
from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.preprocess import Preprocessing, parse_preprocessing
from mmtrt.runtimes.cuda import Cuda
from mmtrt.runtimes.tensorrt_api import LABELS, import_flavour, manifest_data, manifest_path
from mmtrt.session.opening import CURRENT, Folder, Found, Runs

__all__ = ["find_bundle", "find_deployment"]

_ENGINE, _BUNDLE, _DEPLOYED, _CACHE = "model.engine", "bundle", "deployed.json", "cache"
_ON_CPU = "Session(..., runs='onnx') runs a bundle's ONNX on the CPU."
_AGAIN = "Deploy it again: `mmtrt deploy FILE --to DIR`."


# ---------------------------------------------------------------------------------------------- deployments


def find_deployment(
    path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]
) -> Found:
    """Return a deployment's engine, or with `runs="onnx"` the ONNX of its bundle; InputError where it was changed."""
    # Resolved once: a deploy that switches meanwhile changes nothing here.
    version = (path / CURRENT).resolve()
    deployed = read_json(version / _DEPLOYED)
    if not isinstance(deployed, dict) or deployed.get("schema") != "mmtrt.deploy/1":
        raise InputError(f"{version / _DEPLOYED} is not what a deploy writes", fix=_AGAIN)
    if target not in {None, deployed.get("target")}:
        raise UsageError(f"{path} is deployed for {deployed.get('target')!r}, not for {target!r}")
    if runs == "onnx":
        return find_bundle(version / _BUNDLE, runs=runs, target=deployed.get("target"), trust=trust, device=device)
    opened = verify(version / _BUNDLE, trust)
    if opened.digest != deployed.get("digest"):
        raise InputError(f"{version / _BUNDLE} is not the bundle that was deployed, by {_DEPLOYED}", fix=_AGAIN)
    engine = version / _ENGINE
    told = manifest_data(engine)
    if told is None:
        raise InputError(f"{engine} has no manifest beside it", fix=_AGAIN)
    digest = (told.get("engine") or {}).get("sha256")
    if digest is None or digest != deployed.get("engine_sha256"):
        raise InputError(f"{engine} is not the engine that was deployed, by {_DEPLOYED}", fix=_AGAIN)
    if file_digest(manifest_path(engine)) != deployed.get("manifest_sha256"):
        raise InputError(f"{manifest_path(engine)} was altered since it was deployed", fix=_AGAIN)
    if (told.get("onnx") or {}).get("sha256") not in {model.digest for model in opened.manifest.models.values()}:
        raise InputError(f"{engine} was built from another ONNX than the bundle's", fix=_AGAIN)
    return Found(
        file=engine,
        device=device,
        cache=path.resolve() / _CACHE,
        preprocessing=_preprocessing(version / _BUNDLE, opened),
        labels=_labels(version / _BUNDLE, opened),
    )


# -------------------------------------------------------------------------------------------------- bundles


def find_bundle(
    path: Path, *, runs: Runs, target: str | None, trust: Trust | None, device: Callable[[], Cuda]
) -> Found:
    """Return the engine of a bundle that fits this machine, or its ONNX, unpacked; MachineError where none fits."""
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
        file = _with_manifest(folder.path, opened.manifest, engine)
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
        return f"needs the plugins {', '.join(plugins)}, which only a deploy allows, by --allow-plugin"
    if engine.gpu is None and engine.flavor != "tensorrt-rtx":
        return "does not say which GPU it was built for"
    try:
        version = str(import_flavour(engine.flavor).__version__)
    except MachineError as error:
        return f"needs {LABELS[engine.flavor]} {engine.flavor_version}: {error.message}"
    if version != engine.flavor_version:
        return f"needs {LABELS[engine.flavor]} {engine.flavor_version}, and this machine has {version}"
    return ""


def _with_manifest(folder: Path, manifest: Manifest, engine: BundledEngine) -> Path:
    """Return the engine's file, with its manifest where a session looks for it; InputError where it brings a library.

    Engines that bring what they run with are a deploy's to build.
    """
    file = folder / engine.path
    beside = f"{engine.path}.json"
    _check_size(manifest, engine.manifest)
    check_engine_code(file)
    if engine.manifest != beside:
        if any(name == beside or name.startswith(f"{beside}/") for name in manifest.files):
            raise InputError(f"{beside} is not the manifest of {engine.path}", fix="Get the bundle again.")
        shutil.copyfile(folder / engine.manifest, folder / beside)
    return file


def _check_size(manifest: Manifest, name: str) -> None:
    """Raise InputError for a file that is read at once and larger than any that mmtrt writes."""
    if manifest.files[name].bytes > MANIFEST_BYTES:
        raise InputError(f"the bundle's {name} has more than {MANIFEST_BYTES} bytes", fix="Make it again.")


# ----------------------------------------------------------------------------------- what a bundle tells besides


def _verified(folder: Path, opened: Opened, name: str) -> bytes:
    """Return the bytes of a file, which are those of the manifest also if the file was changed since."""
    _check_size(opened.manifest, name)
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
