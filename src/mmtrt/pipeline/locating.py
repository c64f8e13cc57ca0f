"""Where a candidate leaves its reference: both sides as ONNX, node beside node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mmtrt.artifacts import machine_errors, place
from mmtrt.engine import manifest as manifests
from mmtrt.errors import InputError
from mmtrt.isolation import run_isolated
from mmtrt.onnx_files import model_digest
from mmtrt.parity.budget import Budget, default_budget, held, layered
from mmtrt.parity.locate import Trial, locate
from mmtrt.parity.stress import DETERMINISM, How
from mmtrt.parity.stress_budget import split_budget
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.choosing import chosen_samples, opened_early
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.hard_cases import HardCases
from mmtrt.pipeline.saved import is_saved
from mmtrt.pipeline.sides import ENGINE_SUFFIXES, Subject, is_source, open_subject
from mmtrt.pipeline.telling import telling_samples
from mmtrt.results import CheckResult, Located
from mmtrt.samples import Batch, SampleSet, batches

__all__ = ["locate_files"]

_SAMPLES = 4
"""Enough for errors that are averages over thousands of elements; each is held beside all others of its layer."""
_BATCH = 2
_SHOWN: tuple[How, ...] = "both sides", "again"
"""Cases whose tensors have something to be held to; rows in another batch have no names by which to compare them."""
_TIME_LIMIT_S = 1800.0


def locate_files(context: Context, request: CheckRequest, told: CheckResult | None = None) -> Located:
    """Find the first layer of a candidate that is wrong by itself, and how the error grows along the graph.

    `told` is what `check_files` said of the same request. Looked at are the samples that differ most, and where the
    samples show nothing or pass, the hard cases that failed. A candidate that said something else on the same inputs is
    run again besides: the node that is random is bad, whatever it costs. A source is exported (a stage that is cached),
    of an engine the ONNX beside it stands for it. InputError where a side has no graph, or the two have no tensor in
    common.
    """
    reference = _graph_of(context, request.against, request.checkpoint)
    candidate = _graph_of(context, request.candidate, request.checkpoint)
    sides = open_subject(str(reference)), open_subject(str(candidate))
    spec, precision = sides[1].spec, sides[1].precision
    opened = opened_early(request.samples, request.count) or chosen_samples(
        request.samples if isinstance(request.samples, str) else None,
        request.count,
        (request.candidate, request.against),
        spec,
    )
    outputs = [tensor.name for tensor in spec.outputs]
    budget = layered(split_budget(request.budget)[0], split_budget(sides[1].budget)[0], outputs)
    failed = told is not None and any(output.verdict == "fail" for output in told.outputs.values())
    first = Trial(
        feeds=[batch.feeds for batch in _few(opened, sides)], bounds=_bounds(budget, precision, outputs), failed=failed
    )
    again = list(_failed_cases(context, told, sides, opened, "again")) if told is not None and failed else []
    context.stage(f"first bad layer of {candidate.name}")
    passed = told is not None and not failed
    found = _run(reference, candidate, [first, *again], None if passed else request.reduce)
    if passed:
        # The worst few of a set may lie below the bound that the set as a whole keeps: that is no bad layer.
        clean = tuple(replace(layer, verdict="clean") for layer in found.layers)
        found = replace(found, first=None, layers=clean, note="")
    if found.first is None and request.stress and not failed:
        told = told if told is not None else check_files(context, request)
        cases = [trial for how in _SHOWN for trial in _failed_cases(context, told, sides, opened, how)]
        if cases:
            context.stage(f"first bad layer of {candidate.name}: {len(cases)} hard cases failed")
            shown = _run(reference, candidate, cases, request.reduce)
            found = shown if shown.first is not None else found
            if found.first is None and cases[-1].how == "again":
                context.note(f"{candidate.name} says the same each time: what is random is not in its graph")
    if request.reduce is not None and found.reduced is None:
        why = found.note if found.first is not None else "no layer is bad: there is nothing to reduce"
        context.note(f"{why}; {request.reduce} was not written")
    return replace(found, candidate=str(candidate), reference=request.against)


def _run(reference: Path, candidate: Path, trials: list[Trial], reduced: Path | None) -> Located:
    # Here, and not in the process of the native code, which may be killed: it leaves nothing behind.
    with machine_errors("a temporary folder"), TemporaryDirectory(prefix="mmtrt-locate-") as scratch:
        small = Path(scratch, "small", reduced.name) if reduced is not None else None
        if small is not None:
            small.parent.mkdir()
        found = run_isolated(
            locate,
            reference,
            candidate,
            trials,
            scratch=Path(scratch),
            reduced=small,
            what=f"locating the first bad layer of {candidate}",
            time_limit_s=_TIME_LIMIT_S,
        )
        if reduced is None or small is None or found.reduced is None:
            return found
        # The model last: a kill between them leaves none without its weights.
        for made in sorted(small.parent.iterdir(), key=lambda path: path == small):
            place(made, reduced.parent / made.name)
    arrays = reduced.with_suffix(".npz")
    return replace(found, reduced={**found.reduced, "onnx": str(reduced), "arrays": str(arrays)})


def _few(samples: SampleSet, sides: tuple[Subject, Subject]) -> Iterator[Batch]:
    spec = sides[1].spec
    fixed = next((tensor.shape[0] for tensor in spec.inputs if tensor.shape and isinstance(tensor.shape[0], int)), 0)
    return batches(telling_samples(samples, sides, max(_SAMPLES, int(fixed))), spec, size=_BATCH)


def _bounds(budget: Budget, precision: str, outputs: list[str]) -> Mapping[str, float]:
    """Return how many dB of SQNR each output must have; what is judged by other metrics alone has the default."""
    default = default_budget(precision)["sqnr_db"]
    return {name: held(budget, name, precision).get("sqnr_db", default) for name in outputs}


def _failed_cases(
    context: Context, told: CheckResult, sides: tuple[Subject, Subject], samples: SampleSet, how: How
) -> Iterator[Trial]:
    """Yield the cases that hold the candidate to the reference and failed, or those that hold it to itself."""
    failed = {(case.kind, case.name): case for case in told.stress if case.verdict == "fail" and case.outputs}
    failed = {key: case for key, case in failed.items() if (case.kind == DETERMINISM) == (how == "again")}
    reference, candidate = sides
    made = HardCases.of(candidate.spec, reference, [candidate], [*dict.fromkeys(kind for kind, _ in failed)])
    default = default_budget(candidate.precision)["sqnr_db"]
    for case in made.made(replace(context, stage=lambda _: None), samples):
        known = next((failed[one.kind, one.name] for one in case.named if (one.kind, one.name) in failed), None)
        if known is not None and case.how == how:
            bounds = {name: output.budget.get("sqnr_db", default) for name, output in known.outputs.items()}
            yield Trial(feeds=[case.feeds], bounds=bounds, case=f"{known.kind}: {known.name}", failed=True, how=how)


def _graph_of(context: Context, text: str, checkpoint: Path | None) -> Path:
    """Return the ONNX file that a side is, or that stands for it."""
    path = Path(text)
    if is_saved(text):
        raise InputError(
            f"{text} has no graph: layers can't be told apart in it",
            fix="Locate against the ONNX or the PyTorch source that it came from.",
        )
    if is_source(text):
        # What has no PyTorch in it needs none.
        from mmtrt.export.exporter import ExportOptions
        from mmtrt.export.sources import load_source
        from mmtrt.pipeline.exporting import export_stage

        silent = replace(context, note=lambda _: None)
        return export_stage(silent, load_source(text, checkpoint), ExportOptions()).onnx
    if path.suffix in ENGINE_SUFFIXES:
        return _beside_engine(context, path)
    return path


def _beside_engine(context: Context, engine: Path) -> Path:
    digest = manifests.verify(engine).onnx_digest
    for path in (engine.with_suffix(".onnx"), *sorted(engine.parent.glob("*.onnx"))):
        if path.is_file() and model_digest(path) == digest:
            context.note(f"{engine.name} shows no inner values: {path.name}, from which it was built, stands for it")
            return path
    raise InputError(
        f"the ONNX that {engine} was built from does not lie beside it",
        fix="Put it there, or name the ONNX itself.",
    )
