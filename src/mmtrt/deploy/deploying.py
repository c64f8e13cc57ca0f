"""The order of a deploy: verify, look at the machine, choose, build, run, measure, switch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmtrt.artifacts import file_digest, write_json
from mmtrt.bundle.archive import sealed
from mmtrt.bundle.external_data import check_external_data, check_operators, data_locations
from mmtrt.bundle.manifest import BundledOnnx, Manifest, check_plugins, version_key
from mmtrt.bundle.opening import Opened, Trust, unpack
from mmtrt.bundle.reading import resolved
from mmtrt.deploy import engines
from mmtrt.deploy.choosing import Chosen, choose, refused, targets_of
from mmtrt.deploy.directory import BUNDLE, DOCUMENT, ENGINE, Directory, Version, opened
from mmtrt.deploy.engines import ReadyEngine, Wanted
from mmtrt.deploy.golden import Golden, Measured, measured
from mmtrt.deploy.preflight import Machine, look, mismatches, room
from mmtrt.deploy.request import DeployRequest, Notes
from mmtrt.deploy.shapes import profile_for, spec_of
from mmtrt.deploy.standing import fits, of_document, previous_name, rolled_back, verified
from mmtrt.engine.flavours import Flavour
from mmtrt.engine.targets import Target
from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.results import DeployResult, Mismatch
from mmtrt.runtimes.tensorrt_api import manifest_path
from mmtrt.tensors import ModelSpec

__all__ = ["deploy", "roll_back"]

_KERNELS_BYTES = 32 << 20
"""What an engine has beside its weights: that of a small model is mostly this."""


def deploy(request: DeployRequest) -> DeployResult:
    """Deploy a bundle; the old version stays until the new one is whole, has run, and agrees with PyTorch.

    InputError for a bundle that is altered, unsafe, or older than what runs; MachineError where this machine can't;
    UsageError for another bundle's directory or an unknown target; BuildError where the builder refuses. An engine
    that is out of its budget is the state `rejected`.
    """
    with opened(request.directory) as directory:
        notes = Notes(request.note)
        request.stage(f"verify {request.bundle}")
        seal = sealed(resolved(request.bundle))
        standing = _standing(request, directory, seal.digest, notes)
        if standing is not None:
            return standing
        _check_room(directory.root, seal.size, "the bundle")
        with directory.part() as part:
            (part / BUNDLE).mkdir()
            bundle = unpack(request.bundle, part / BUNDLE, request.trust)
            result = _Deploy(request, directory, notes, part, bundle).run()
        with contextlib.suppress(OSError):
            # Also where it was rejected, or built only: else each such deploy takes some more of the disk.
            engines.tidy(directory.cache, request.keep + 2)
        return result


def roll_back(root: Path, trust: Trust | None = None) -> DeployResult:
    """Go back to the version before; InputError where there is none, MachineError where it can't run here any more."""
    if not root.is_dir():
        raise InputError(f"there is no deployment {root}", fix="Check the path.")
    with opened(root) as directory:
        return rolled_back(directory, look, trust)


def _standing(request: DeployRequest, directory: Directory, digest: str, notes: Notes) -> DeployResult | None:
    """Return the result where this very bundle runs already, all of its files whole, on this machine as it is."""
    current = directory.current()
    if request.until == "build" or current is None or not digest.startswith(current.digest):
        return None
    try:
        found, document = verified(current, request.trust)
    except InputError as error:
        notes(f"{current.path.name} is deployed again: {error.message}")
        return None
    why = fits(document, look())
    if request.target not in {None, document.get("target")}:
        why = f"its target is {document.get('target')}"
    if why or found.digest != digest:
        notes(f"{current.path.name} is deployed again: {why or 'its bundle is another one'}")
        return None
    return replace(
        of_document(document),
        state="already deployed",
        directory=str(request.directory),
        switched=False,
        signed_by=found.signed_by,
        build_s=None,
        notes=notes.all(),
    )


def _check_room(folder: Path, needed: int, what: str) -> None:
    found = room(folder, needed, what)
    if found:
        raise refused({"any target": found})


@dataclass(slots=True)
class _Deploy:
    """One deploy of a bundle that was verified, into a part of a version."""

    request: DeployRequest
    directory: Directory
    notes: Notes
    part: Path
    bundle: Opened
    machine: Machine = field(init=False)
    mismatches: tuple[Mismatch, ...] = ()

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def run(self) -> DeployResult:
        """Go through all steps; nothing but the last one changes what runs."""
        current = self.directory.current()
        self._check_successor(current)
        spec = spec_of(self.manifest.spec)
        self.machine = look()
        chosen = self._chosen(spec)
        # What a bundle says of its own target allows nothing: only this machine's owner does.
        check_plugins(self.manifest, self.request.plugins)
        wanted = self._wanted(spec, chosen.name, chosen.target, chosen.flavour)
        self._told((*chosen.mismatches, *engines.unfitting(self.manifest, wanted)))
        if self.request.until == "build":
            result = self._result(wanted, self._made(wanted), None)
            return replace(result, state="built, not run", version_directory="", notes=self.notes.all())
        ready, found = self._ran(spec, wanted)
        for text in found.notes:
            self.notes(text)
        result = replace(
            self._result(wanted, ready, current), ran=found.runs, parity=found.parity, latency=found.latency
        )
        return self._judged(result, found, wanted)

    def _told(self, found: tuple[Mismatch, ...]) -> None:
        self.mismatches = found
        for one in found:
            self.notes(f"{one.what}: wanted {one.wanted}, found {one.found}. {one.fix}")

    # ---- before the engine

    def _check_successor(self, current: Version | None) -> None:
        """Raise UsageError for another bundle's directory, InputError for an older version than the one that runs."""
        if current is None:
            return
        name, version = self.manifest.name, self.manifest.version
        if name != current.name:
            raise UsageError(
                f"{self.directory.root} is the deployment of {current.name!r}, and this bundle is {name!r}",
                fix="Give each a directory of its own with --to.",
            )
        if self.request.older == "refused" and version_key(version) < version_key(current.version):
            raise InputError(
                f"{name} {version} is older than {current.version}, which runs",
                fix="--rollback goes back to the version before; --allow-downgrade lets an older bundle in.",
            )

    def _chosen(self, spec: ModelSpec) -> Chosen:
        targets = targets_of(self.manifest)
        runs = self.request.until == "switch"

        def otherwise(name: str) -> tuple[Mismatch, ...]:
            root, needed = self.directory.root, self._engine_bytes(name)
            return mismatches(targets[name], self.machine, runs=runs, folder=root, needed_bytes=needed)

        def ready(name: str, flavour: Flavour) -> bool:
            return engines.bundled(self.manifest, self._wanted(spec, name, targets[name], flavour)) is not None

        chosen = choose(targets, self.machine, wanted=self.request.target, otherwise=otherwise, ready=ready)
        if chosen.why:
            self.notes(chosen.why)
        return chosen

    def _wanted(self, spec: ModelSpec, name: str, target: Target, flavour: Flavour) -> Wanted:
        precision, model = self.manifest.targets[name].precision, self._model(name)
        return Wanted(
            onnx=self.part / BUNDLE / model.path,
            digest=engines.onnx_digest(self.manifest, model),
            target=name,
            precision=precision,
            profile=profile_for(spec, target),
            options=replace(target.options(), flavor=flavour.name),
            flavour=flavour,
            gpu=self.machine.gpu,
            calibration=model.calibration,
            model={"source": spec.source, "digest": spec.digest, "versions": dict(spec.versions)},
        )

    def _model(self, target: str) -> BundledOnnx:
        return self.manifest.models[self.manifest.targets[target].precision]

    # ---- the engine

    def _ran(self, spec: ModelSpec, wanted: Wanted) -> tuple[ReadyEngine, Measured]:
        """Run the bundle's engine where one fits, else, or where this machine can't load it, one that is built."""
        reused = engines.from_bundle(self.part / BUNDLE, self.manifest, wanted, self.part, self.notes)
        if reused is not None:
            if not self.bundle.signed_by:
                self.notes("the bundle's engine is native code, and nobody's signature was asked for")
            try:
                return reused, self._measured(reused, spec, wanted)
            except MachineError as error:
                self.notes(f"the bundle's engine does not run here, and one is built: {error.message}")
        made = self._made(wanted)
        return made, self._measured(made, spec, wanted)

    def _made(self, wanted: Wanted) -> ReadyEngine:
        # A parser opens the files that an ONNX names, and loads what its operators ask for.
        model = self._model(wanted.target)
        check_external_data(wanted.onnx, data_locations(model))
        check_operators(wanted.onnx, self.manifest.plugins)
        self.request.stage(f"engine for {wanted.target} with {wanted.flavour}")
        seeds = {
            engines.timing_name(row.flavor, row.flavor_version, row.gpu, row.compute_capability): self.part
            / BUNDLE
            / row.path
            for row in self.manifest.timing_caches
        }
        return engines.made(self.directory.cache, wanted, seeds, self.notes)

    def _engine_bytes(self, target: str) -> int:
        """Return what an engine may take, in the cache and in the version, by the weights of its ONNX."""
        model = self._model(target)
        return 2 * (_KERNELS_BYTES + sum(self.manifest.files[name].bytes for name in (model.path, *model.data)))

    def _measured(self, ready: ReadyEngine, spec: ModelSpec, wanted: Wanted) -> Measured:
        engine = engines.take(ready, self.part)
        self.request.stage(f"run {engine.name}: golden samples, then latency")
        golden = Golden(
            engine=engine,
            samples=self.part / BUNDLE / self.manifest.golden,
            spec=spec,
            precision=wanted.precision,
            digest=ready.manifest.engine_digest,
            budget=self._model(wanted.target).budget,
            profile=wanted.profile,
            cache=self.directory.cache,
            duration_s=self.request.duration_s,
        )
        return measured(golden)

    # ---- the end

    def _before(self, current: Version | None) -> str:
        """Return the version to go back to: the one that stands, or where it was altered the one before it."""
        if current is None:
            return ""
        try:
            verified(current, None)
        except InputError as error:
            self.notes(f"{current.path.name} is nothing to go back to: {error.message}")
            return previous_name(current)
        return current.path.name

    def _result(self, wanted: Wanted, ready: ReadyEngine, current: Version | None) -> DeployResult:
        name = self.directory.next_name(self.manifest.name, self.manifest.version, self.bundle.digest)
        return DeployResult(
            state="deployed",
            directory=str(self.request.directory),
            name=self.manifest.name,
            version=self.manifest.version,
            digest=self.bundle.digest,
            version_directory=name,
            target=wanted.target,
            precision=wanted.precision,
            signed_by=self.bundle.signed_by,
            engine=ready.how,
            engine_sha256=ready.manifest.engine_digest,
            flavor=wanted.flavour.name,
            flavor_version=wanted.flavour.version,
            build_s=ready.build_s,
            mismatches=self.mismatches,
            previous=self._before(current),
            machine=self.machine.to_json(),
        )

    def _judged(self, result: DeployResult, found: Measured, wanted: Wanted) -> DeployResult:
        limit = self.request.max_p50_ms
        why = ""
        if found.verdict != "pass":
            engines.forget(self.directory.cache, wanted)
            why = "the engine's outputs are out of their budget: nothing was switched"
        elif limit is not None and not found.p50_ms <= limit:
            why = f"p50 is {found.p50_ms:.3f} ms, and {limit:g} ms was asked for: nothing was switched"
        if why:
            self.notes(why)
            return replace(result, state="rejected", version_directory="", notes=self.notes.all())
        told = file_digest(manifest_path(self.part / ENGINE))
        result = replace(result, switched=True, manifest_sha256=told, notes=self.notes.all())
        write_json(self.part / DOCUMENT, result.to_json())
        self.request.stage("switch")
        self.directory.switch(self.directory.publish(self.part, result.version_directory))
        with contextlib.suppress(OSError):
            self.directory.prune(self.request.keep, result.previous)
        return result
