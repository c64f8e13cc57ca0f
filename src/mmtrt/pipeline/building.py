"""The precision and the engine stage: `model.onnx` becomes `model.int8.onnx` and `model.int8.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime

from mmtrt.artifacts import file_digest, place, read_json, write_json
from mmtrt.engine import manifest as manifests
from mmtrt.engine.build import BuildOptions
from mmtrt.engine.estimate import Gpu
from mmtrt.engine.flavours import choose
from mmtrt.errors import ModelError, SampleError, UsageError
from mmtrt.isolation import run_isolated
from mmtrt.onnx_files import model_digest, model_spec, open_model
from mmtrt.parity.stress_budget import split_budget
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.engine_stage import ENGINE, engine_stage
from mmtrt.pipeline.profiles import ranges_from_shapes
from mmtrt.pipeline.reached import stored_reached, tell_reached
from mmtrt.pipeline.searching import BudgetJudge, task_metrics
from mmtrt.pipeline.structure import EnginePrice
from mmtrt.precision.convert import convert
from mmtrt.precision.converted import Converted, stored_precision, stored_summary
from mmtrt.precision.graph import with_weights_in
from mmtrt.precision.lint import has_qdq, lint_qdq
from mmtrt.precision.options import REFINED, PrecisionOptions
from mmtrt.precision.search import search
from mmtrt.results import BuildResult, plain
from mmtrt.samples import SampleSet, checked, open_set, shapes_profile
from mmtrt.samples.random import RANDOM
from mmtrt.tensors import ModelSpec

__all__ = ["BuildRequest", "Prepared", "build_stage", "find_calibration", "prepare_stage"]

_RESULT = "result.json"
_RANGES = "ranges.npz"
_LIBRARY = Path("calibration/samples")
Ranges = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What is to be built from an ONNX file; `precision` None builds it as it is.

    `samples` names a calibration set, `ranges_file` what earlier sets showed, to which it is added; `ranges` replaces
    ranges that the model tells, `shapes` gives the smallest, usual and largest shape of inputs as trtexec's flags do.
    `budget` and `recipe` go into what is made; with `search`, as many layers become INT8 as `budget` allows. `gpu` is
    what times are estimated for; coverage "auto" is "engine" where that is told and the builder tells the kernels, else
    "wide"; a search has all layers to choose from.
    """

    model: Path
    folder: Path
    precision: str | None = None
    samples: str | None = None
    ranges_file: Path | None = None
    count: int | None = None
    method: str = "auto"
    coverage: str = "auto"
    refine: tuple[str, ...] = REFINED
    keep: tuple[str, ...] = ()
    ranges: Ranges = field(default_factory=dict)
    shapes: tuple[Mapping[str, tuple[int, ...]], ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    gpu: Gpu | None = None
    name: str | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    search: bool = False
    recipe: Mapping[str, Any] | None = None

    @property
    def stem(self) -> str:
        """The name of what is built, without the suffix: `vqa`, `vqa.int8`."""
        stem = self.name or self.model.stem
        return stem if self.precision in {None, "fp32"} else f"{stem}.{self.precision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """An ONNX in the precision asked for, ready for a builder; `converted` is None where it is built as it is."""

    onnx: Path
    spec: ModelSpec
    precision: str
    summary: Mapping[str, Any]
    converted: Converted | None = None
    search: Mapping[str, Any] | None = None
    cached: bool = True


def build_stage(context: Context, request: BuildRequest) -> BuildResult:
    """Convert and build, each from the cache where nothing changed; the files appear in `request.folder`."""
    flavour = choose(request.options.flavor)
    made = prepare_stage(context, request)
    context.stage(f"{made.precision}: build the engine with {flavour.name} {flavour.version}")
    folder, cached = engine_stage(
        context,
        made.onnx,
        made.spec,
        request.options,
        precision=made.precision,
        calibration=made.summary.get("calibration"),
    )
    return _publish(request, made, folder, cached=made.cached and cached)


def prepare_stage(context: Context, request: BuildRequest) -> Prepared:
    """Return the model in the precision asked for, converted in the cache where it is another than it has."""
    proto = open_model(request.model)
    spec = model_spec(proto)
    ranges = {**request.ranges, **ranges_from_shapes(spec, request.shapes)}
    stored = stored_precision(proto)
    if request.samples == RANDOM:
        _all_ranged(request.model, spec, ranges)
    if request.precision in {None, "fp32"}:
        if request.precision == "fp32" and stored != "fp32":
            raise ModelError(f"{request.model} is {stored}: FP32 can't be made of it", fix="Build from the FP32 ONNX.")
        _lint(request.model, proto)
        return Prepared(
            onnx=request.model,
            spec=replace(spec, ranges=_ranges_of(request, spec, ranges)),
            precision=stored,
            summary=stored_summary(proto),
        )
    context.stage(f"{request.precision}: calibrate and convert {request.model.name}")
    converted, found, cached = _convert(context, request, ranges)
    return Prepared(
        onnx=converted.onnx,
        spec=converted.spec,
        precision=str(request.precision),
        summary=converted.summary(),
        converted=converted,
        search=found,
        cached=cached,
    )


# ---------------------------------------------------------------------------------------------------- precision


def find_calibration(model: Path) -> str:
    """Return the set that belongs to a model: beside it, else in calibration/samples; SampleError with the mend."""
    beside = model.with_name(f"{model.stem}.calib")
    for folder in (beside, _LIBRARY / model.stem):
        if folder.is_dir():
            return str(folder)
    raise SampleError(
        f"there are no calibration samples for {model}",
        fix=f"Name a set with --calib; without one, {beside}/ and {_LIBRARY / model.stem}/ are looked for. A set is "
        "a folder with one .npz a sample: {input name: array without the batch axis}. "
        "`--calib random` makes an engine for smoke tests only.",
    )


def _lint(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse Q/DQ that TensorRT would misread, in a model that is built as it is."""
    if has_qdq(ir.from_proto(proto)):
        lint_qdq(with_weights_in(open_model(path), path.parent), [])


def _open(request: BuildRequest) -> tuple[str, SampleSet | None]:
    reference = request.samples or find_calibration(request.model)
    return reference, None if reference == RANDOM else open_set(reference, count=request.count)


def _convert(
    context: Context, request: BuildRequest, ranges: Ranges
) -> tuple[Converted, Mapping[str, Any] | None, bool]:
    """Return what was made, what a search found, and whether it was there already."""
    reference, samples = _open(request)
    options = PrecisionOptions(
        precision=str(request.precision),
        method=request.method,
        coverage=_coverage(request),
        refine=request.refine,
        keep=request.keep,
        budget=request.budget,
    )
    parts = {
        "onnx": model_digest(request.model),
        "options": plain(asdict(options)),
        "samples": samples.key if samples else RANDOM,
        "count": request.count,
        "search": request.search,
        "price": _price_key(request) if options.coverage == "engine" else None,
        "ranges": plain(ranges),
        "ranges_file": _digest_of(request.ranges_file),
        "versions": [onnx.__version__, onnxruntime.__version__],
    }

    # Hard cases are for the check that follows: a search tries too many placements for them.
    judged, _ = split_budget(request.budget)
    tasks = task_metrics(request.model, judged, samples) if request.search else {}

    def work(folder: Path) -> None:
        # A process of its own: its memory is what is reported, and a crash of native code is an error here.
        common: dict[str, Any] = {"samples": reference, "count": request.count, "ranges": ranges}
        if options.coverage == "engine" and request.gpu is not None:
            common["price"] = EnginePrice(gpu=request.gpu, options=request.options)
        what = f"calibration of {request.model.name}"
        given = (request.model, folder / "model.onnx", options)
        if request.search:
            judge = BudgetJudge(judged)
            told = run_isolated(search, *given, **common, judge=judge, tasks=tasks, what=what)
            made, extra = told.converted, {"search": told.summary()}
        else:
            saved = request.ranges_file
            if saved is not None:
                common |= {"ranges_file": saved.absolute(), "ranges_out": folder / _RANGES}
            made, extra = run_isolated(convert, *given, **common, what=what), {}
        if samples is not None:
            tell_reached(context, request.model, made.onnx, samples, precision=options.precision)
        write_json(folder / _RESULT, plain({**asdict(made), "spec": made.spec.to_json(), **extra}))

    folder, cached = context.cache.run("precision", parts, work)
    found = read_json(folder / _RESULT)
    converted = Converted.from_json(found, folder / "model.onnx")
    for text in converted.notes:
        context.note(text)
    if request.ranges_file is not None and (folder / _RANGES).is_file():
        place(folder / _RANGES, request.ranges_file)
    return converted, found.get("search"), cached


def _digest_of(path: Path | None) -> str | None:
    if path is None:
        return None
    return file_digest(path) if path.is_file() else "none yet"


def _coverage(request: BuildRequest) -> str:
    """Return what is INT8: TensorRT-RTX tells an engine's kernels without a GPU, so there it can be judged by them."""
    if request.coverage != "auto":
        return request.coverage
    if request.search:
        return "all"  # A budget asks for as much INT8 as accuracy allows, whatever the engine gains.
    judged = request.gpu is not None and choose(request.options.flavor).name == "tensorrt-rtx"
    return "engine" if judged and request.precision == "int8" else "wide"


def _price_key(request: BuildRequest) -> list[Any]:
    flavour = choose(request.options.flavor)
    gpu_told = request.gpu.model_dump() if request.gpu else None
    return [flavour.name, flavour.version, request.options.to_json(), gpu_told]


# ------------------------------------------------------------------------------------------------------- engine


def _ranges_of(request: BuildRequest, spec: ModelSpec, given: Ranges) -> dict[str, tuple[int, int, int]]:
    """Ranges for an engine of a model as it is: given, the model's own, else the shapes of its samples."""
    names = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    ranges = {**{k: v for k, v in spec.ranges.items() if k in names}, **given}
    if not names - ranges.keys():
        return ranges
    try:
        _, samples = _open(request)
    except SampleError:
        if request.samples is not None:
            raise
        missing = ", ".join(sorted(names - ranges.keys()))
        raise UsageError(
            f"{request.model} has dynamic axes without a range: {missing}",
            fix="Give --min-shapes, --opt-shapes and --max-shapes, or samples with --calib.",
        ) from None
    assert samples is not None  # noqa: S101 -- random ones need all ranges, and were asked for theirs
    return {**shapes_profile(checked(samples, replace(spec, ranges=ranges)), spec), **ranges}


def _all_ranged(model: Path, spec: ModelSpec, given: Ranges) -> None:
    """Raise UsageError where random samples would have to invent a size."""
    names = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    missing = ", ".join(sorted(names - spec.ranges.keys() - given.keys()))
    if missing:
        raise UsageError(
            f"{model} has dynamic axes without a range, and random samples have no sizes of their own: {missing}",
            fix="Give --min-shapes, --opt-shapes and --max-shapes.",
        )


# -------------------------------------------------------------------------------------------------- publishing


def _publish(request: BuildRequest, made: Prepared, folder: Path, *, cached: bool) -> BuildResult:
    engine = place(folder / ENGINE, request.folder / f"{request.stem}.engine")
    manifest_path = manifests.manifest_path(engine)
    write_json(manifest_path, {**read_json(manifests.manifest_path(folder / ENGINE)), "recipe": request.recipe})
    layers = manifests.layers_path(folder / ENGINE)
    if layers.exists():
        place(layers, manifests.layers_path(engine))
    published = made.onnx
    if made.converted is not None:
        published = place(made.onnx, request.folder / f"{request.stem}.onnx")
        data = made.onnx.with_name(f"{made.onnx.name}.data")
        if data.exists():
            place(data, request.folder / data.name)
    manifest = manifests.read(engine)
    record = made.converted.calibration if made.converted else None
    return BuildResult(
        precision=made.precision,
        flavor=manifest.flavor,
        flavor_version=manifest.flavor_version,
        artifacts={"onnx": str(published), "engine": str(engine), "manifest": str(manifest_path)},
        engine_bytes=manifest.engine_bytes,
        onnx_bytes=published.stat().st_size,
        build_s=manifest.build_s,
        int8=made.summary.get("int8") if made.precision == "int8" else None,
        calibration=asdict(record) if record else made.summary.get("calibration"),
        kept=tuple(made.summary.get("kept", ())),
        reached=stored_reached(open_model(made.onnx)),
        search=made.search,
        layers=manifest.layers,
        ran_on_gpu=False,
        cached=cached,
        notes=(*(made.converted.notes if made.converted else ()), *manifest.notes),
    )
