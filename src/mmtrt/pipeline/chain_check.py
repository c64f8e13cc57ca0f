"""`mmtrt check` of a pipeline, by its manifest, against golden events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from mmtrt.errors import InputError, UsageError
from mmtrt.parity.budget import PHRASES, Budget, check_names
from mmtrt.parity.phrases import chain_budget, compare_chain
from mmtrt.parts.chain import Chain
from mmtrt.parts.manifest import SUFFIX, read_manifest
from mmtrt.parts.wiring import Wiring
from mmtrt.pipeline.choosing import Fed, limited
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.parts_subject import Kind, open_chain
from mmtrt.pipeline.saved import is_saved, open_saved
from mmtrt.results import CheckResult, Ran, StressResult

__all__ = ["check_chain", "names_chain"]


def names_chain(text: str) -> bool:
    """Tell whether a side is a pipeline's manifest: `talk.pipeline.json`, or one of its chains, `...json#int8`."""
    return text.partition("#")[0].endswith(SUFFIX)


def check_chain(
    context: Context,
    candidate: str,
    against: str,
    *,
    budget: Budget,
    heads: Mapping[str, str],
    stress: Sequence[str],
    count: int | None,
) -> CheckResult:
    """Check a chain that `mmtrt run` made against golden events, end to end.

    `candidate` is `FILE`, `FILE#CHAIN` or `FILE#CHAIN/engine`. Hard cases are made for one model: none are run on a
    pipeline, and that is told. InputError where the events hold no inputs and outputs, UsageError where the chain is
    not named and there are several, or the budget is on what is not measured.
    """
    file, _, named = candidate.partition("#")
    golden = open_saved(against) if is_saved(against) else None
    if golden is None or golden.samples is None:
        raise InputError(
            f"{file} is a pipeline, and {against} holds no golden events",
            fix=f"`mmtrt run` of its recipe wrote {file.removesuffix(SUFFIX)}.golden beside it: name that.",
        )
    path, wiring = Path(file), read_manifest(Path(file)).wiring
    chain, _, kind = (named or _only_chain(path)).partition("/")
    if kind not in {"", "onnx", "engine"}:
        raise UsageError(f"a chain is of onnx or of engine files, not of {kind!r}", fix=f"Write {file}#{chain}/engine.")
    subject = open_chain(path, chain, cast("Kind", kind or "onnx"))
    held = _held(budget, subject.precision, wiring)
    context.stage(f"end to end: {subject.what}")
    runner = subject.exact()
    assert isinstance(runner, Chain)  # noqa: S101 -- as open_chain makes it
    events = limited(golden.samples, count)
    fed = Fed(events)
    reference = Ran(what=against, runs=golden.runs, note=golden.note, digest=golden.key, model=golden.spec.source)
    result = compare_chain(
        runner, wiring, subject.what, subject.precision, fed, budget=held, reference=reference, heads=heads
    )
    if stress:
        context.note("hard cases are made for one model: none are run on a pipeline")
    why = "hard cases are made for one model, and this is a pipeline"
    return replace(
        result,
        candidate=replace(result.candidate, what=candidate, digest=subject.key),
        stress=tuple(
            StressResult(kind=kind, name="", sizes={}, outputs={}, verdict="not run", note=why) for kind in stress
        ),
        sample_set={"digest": fed.digest, "source": events.source, "on_data": events.on_data},
    )


def _only_chain(manifest: Path) -> str:
    chains = list(read_manifest(manifest).chains)
    if len(chains) != 1:
        raise UsageError(
            f"{manifest} has {len(chains)} chains" + (f": {', '.join(chains)}" if chains else ""),
            fix=f"Write {manifest}#CHAIN." if chains else "`mmtrt run` of its recipe makes them.",
        )
    return chains[0]


def _held(given: Budget, precision: str, wiring: Wiring) -> Budget:
    """Return the default of a chain with what is given in its place; UsageError where that names nothing measured."""
    phrases = [wiring.step.logits] if wiring.step is not None else []
    names = [name for name in (*wiring.outputs, *phrases) if name]
    check_names(given, names, phrases=phrases)
    default = chain_budget(precision, wiring.step)
    if any(key.rpartition(":")[2] == PHRASES for key in given):
        default = {key: bound for key, bound in default.items() if key.rpartition(":")[2] != PHRASES}
    return {**default, **given}
