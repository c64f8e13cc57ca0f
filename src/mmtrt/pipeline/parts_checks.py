"""Parity and latency of a pipeline: of each part alone, on what it is really fed, and of all of them end to end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mmtrt.artifacts import read_json, write_json
from mmtrt.parity.budget import Budget
from mmtrt.parity.phrases import compare_chain
from mmtrt.parts.chain import Chain
from mmtrt.pipeline.bench_kept import bench_built, bench_kept
from mmtrt.pipeline.benching import bench_feeds, bench_stage
from mmtrt.pipeline.checking import check_stage, not_run, versions
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult
from mmtrt.pipeline.parts_export import GOLDEN_EVENTS, PartsExport
from mmtrt.pipeline.parts_flow import golden_events
from mmtrt.pipeline.parts_subject import chain_subject
from mmtrt.pipeline.sides import Subject, cannot_run, open_subject
from mmtrt.recipe import Recipe
from mmtrt.results import BenchResult, BuildResult, CheckResult, Ran, plain
from mmtrt.samples import LABEL, OUTPUT, Sample, SampleSet, open_set

__all__ = [
    "OF_A_PART",
    "Ends",
    "bench_chains",
    "bench_part",
    "check_chain_subjects",
    "check_chains",
    "check_part",
    "parity_events",
]

Ends = dict[str, Mapping[str, BuildResult]]
"""The chains by name: each part's build in it."""


OF_A_PART = ("corner", "batch", "length", "determinism", "batch-invariance")
"""Hard cases of a part: what it is fed is made by the parts before it, whose outputs are never missing or constant."""


def parity_events(recipe: Recipe, exported: PartsExport) -> SampleSet:
    """Return the events of the recipe's parity set, else the golden ones that the export wrote."""
    return _inputs_of(open_set(recipe.parity.set or str(exported.golden), count=recipe.parity.count))


def _inputs_of(samples: SampleSet) -> SampleSet:
    """Leave golden outputs out: what is compared is made anew."""

    def read() -> Iterator[Sample]:
        return ({name: array for name, array in s.items() if not name.startswith(OUTPUT)} for s in samples)

    return SampleSet(source=samples.source, key=samples.key, read=read, on_data=samples.on_data)


# ---------------------------------------------------------------------------------------------------- one part


def check_part(
    context: Context,
    reference: Subject,
    builds: Sequence[BuildResult],
    feeds: Path,
    budgets: Mapping[str, Budget],
    stress: Sequence[str],
) -> tuple[CheckResult, ...]:
    """Compare what was built of a part with its module, on what the module is fed in the pipeline of modules."""
    engines = [(Path(build.artifacts["engine"]), build.precision) for build in builds]
    runnable = [str(engine) for engine, _ in engines if cannot_run(engine) is None]
    subjects = [open_subject(text) for text in (*(build.artifacts["onnx"] for build in builds), *runnable)]
    checks = check_stage(context, reference, subjects, open_set(str(feeds)), budgets=budgets, stress=stress)
    rest = [not_run(e, p, checks[0].reference) for e, p in engines if str(e) not in runnable]
    return (*checks, *rest)


def bench_part(
    context: Context, recipe: Recipe, reference: Subject, exported: ExportResult, builds: Sequence[BuildResult]
) -> tuple[BenchResult, BenchResult | None]:
    """Measure a part's module and ONNX files on the CPU, and its engines where they run."""
    alone = {name: 1 for tensor in exported.spec.inputs for name in tensor.shape[:1] if isinstance(name, str)}
    named = {dim for tensor in exported.spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    sizes = {**alone, **{name: size for name, size in recipe.bench.sizes.items() if name in named}}
    feeds = bench_feeds(exported.spec, sizes, open_set(str(exported.golden)))
    return bench_built(context, reference, builds, feeds, duration_s=recipe.bench.duration_s)


# -------------------------------------------------------------------------------------------------- end to end


def _subjects(recipe: Recipe, exported: PartsExport, ends: Ends, kind: str) -> list[Subject]:
    """Return the chains of ONNX files or of engines; of engines those that can run here."""
    found = []
    for chain, builds in ends.items():
        files = {part: build.artifacts[kind] for part, build in builds.items()}
        if kind == "onnx" or all(cannot_run(Path(file)) is None for file in files.values()):
            what = f"{recipe.name} {chain} ({kind})"
            parts = {part: open_subject(file) for part, file in files.items()}
            found.append(chain_subject(exported.wiring, what, chain, parts))
    return found


def check_chains(
    context: Context,
    recipe: Recipe,
    exported: PartsExport,
    modules: Mapping[str, Subject],
    ends: Ends,
    budgets: Mapping[str, Budget],
) -> tuple[CheckResult, ...]:
    """Compare each chain with the chain of modules, over the parity events."""
    subjects = [*_subjects(recipe, exported, ends, "onnx"), *_subjects(recipe, exported, ends, "engine")]
    checks = check_chain_subjects(context, recipe, exported, modules, subjects, budgets)
    reference = _reference(exported, modules)
    ran = {subject.what for subject in subjects}
    for chain in ends:
        what = f"{recipe.name} {chain} (engine)"
        if what not in ran:
            why = next(filter(None, (cannot_run(Path(b.artifacts["engine"])) for b in ends[chain].values())))
            left = not_run(Path(what), chain, reference)
            checks.append(replace(left, candidate=replace(left.candidate, note=why)))
    return tuple(checks)


def _reference(exported: PartsExport, modules: Mapping[str, Subject]) -> Ran:
    return Ran(what=exported.source.reference, runs=next(iter(modules.values())).exact().runs, precision="fp32")


def check_chain_subjects(
    context: Context,
    recipe: Recipe,
    exported: PartsExport,
    modules: Mapping[str, Subject],
    subjects: Sequence[Subject],
    budgets: Mapping[str, Budget],
) -> list[CheckResult]:
    """Compare chains of what runs here with the chain of modules, over the parity events; `budgets` by precision."""
    events = parity_events(recipe, exported)
    count = None if recipe.parity.set else recipe.parity.count or GOLDEN_EVENTS
    golden = open_set(str(golden_events(context, exported.source.wiring, modules, events, count)))
    reference = _reference(exported, modules)
    return [_check(context, recipe, exported, s, golden, budgets[s.precision], reference) for s in subjects]


def _check(
    context: Context,
    recipe: Recipe,
    exported: PartsExport,
    subject: Subject,
    golden: SampleSet,
    budget: Budget,
    reference: Ran,
) -> CheckResult:
    wiring = exported.wiring
    parts = {
        "chain": subject.key,
        "what": subject.what,
        "events": golden.key,
        "budget": dict(budget),
        "metrics": plain(recipe.parity.metrics),
        "heads": dict(recipe.parity.heads),
        "wiring": wiring.to_json(),
        "reference": exported.source.digest,
        "versions": versions(),
    }

    def work(folder: Path) -> None:
        context.stage(f"end to end: {subject.what}")
        chain = subject.exact()
        assert isinstance(chain, Chain)  # noqa: S101 -- made above
        result = compare_chain(
            chain,
            wiring,
            subject.what,
            subject.precision,
            golden,
            budget=budget,
            reference=reference,
            metrics=recipe.parity.metrics,
            heads=recipe.parity.heads,
        )
        write_json(folder / "result.json", result.to_json())

    folder, cached = context.cache.run("chain", parts, work)
    return replace(CheckResult.from_json(read_json(folder / "result.json")), cached=cached)


def bench_chains(
    context: Context, recipe: Recipe, exported: PartsExport, modules: Mapping[str, Subject], ends: Ends
) -> tuple[BenchResult, BenchResult | None]:
    """Measure the whole pipeline, a step until its phrase has ended; engines by the host's clock, where they run."""
    reference = chain_subject(exported.source.wiring, exported.source.reference, "fp32", modules)
    alone = {name: 1 for tensor in exported.wiring.inputs for name in tensor.shape[:1] if isinstance(name, str)}
    named = {dim for tensor in exported.wiring.inputs for dim in tensor.shape if isinstance(dim, str)}
    sizes = {**alone, **{name: size for name, size in recipe.bench.sizes.items() if name in named}}
    events = [{n: a for n, a in s.items() if not n.startswith((LABEL, OUTPUT))} for s in open_set(str(exported.golden))]
    golden = SampleSet(source="golden events", key="", read=lambda: events)
    feeds = bench_feeds(exported.wiring.spec, sizes, golden)
    subjects = [reference, *_subjects(recipe, exported, ends, "onnx")]
    engines = [Path(build.artifacts["engine"]) for builds in ends.values() for build in builds.values()]
    measured = bench_kept(context, subjects, feeds, engines, duration_s=recipe.bench.duration_s)
    chains = _subjects(recipe, exported, ends, "engine")
    on_gpu = bench_stage(context, chains, feeds, duration_s=recipe.bench.duration_s) if chains else None
    return measured, on_gpu
