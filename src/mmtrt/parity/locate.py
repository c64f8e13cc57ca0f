"""The first layer that is wrong, named as its author knows it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from mmtrt.errors import InputError, MeasurementError
from mmtrt.onnx_files import SOURCE_KEY
from mmtrt.parity.again import Again, run_again
from mmtrt.parity.alignment import Alignment, added, align
from mmtrt.parity.blame import Blamed, blame, blame_itself
from mmtrt.parity.probing import TensorError
from mmtrt.parity.reducing import reduce_random, reduce_to
from mmtrt.parity.scales import wrong_scale
from mmtrt.parity.stress import How
from mmtrt.parity.subgraphs import Part, note_of
from mmtrt.results import LayerError, LayerVerdict, Located
from mmtrt.tensors import Feeds

__all__ = ["Trial", "locate"]

_NONE_DB = -300.0
_FEW = 3
"""Graphs of so few nodes may have none whose inner tensors are left after an edit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Feeds on which two graphs are run together, and the outputs' budgets in dB of SQNR.

    `case` names a hard case, empty for samples of the set; `failed` says that a check failed on them.
    `how` is "again" where the candidate was held to itself and said something else: it has no bounds then.
    """

    feeds: Sequence[Feeds]
    bounds: Mapping[str, float]
    case: str = ""
    failed: bool = False
    how: How = "both sides"


def locate(
    reference: Path, candidate: Path, trials: Sequence[Trial], *, scratch: Path, reduced: Path | None = None
) -> Located:
    """Return the first bad layer on the first trial that shows one, else the growth of the error on the first trial.

    Where a trial is of the candidate run again, a layer that is random is bad on each of the trials, and that trial is
    the first of the hard cases. With `reduced` a small ONNX is written there that still shows the failure. InputError
    where nothing in the two graphs can be aligned, or one has an input that the other lacks.
    """
    theirs, ours = Part(reference), Part(candidate)
    alignment = _aligned(theirs, ours)
    again = next((run_again(ours, trial.feeds) for trial in trials if trial.how == "again"), None)
    if again is not None and again.random:
        # Behind the samples this is the surest sign: a hard case of one event can't tell a layer from its precision.
        trials = sorted(trials, key=lambda trial: (bool(trial.case), trial.how != "again"))
    result: Located | None = None
    for trial in trials:
        if trial.how == "again" and again is not None:
            found = blame_itself(ours, alignment, again)
        else:
            found = blame(
                theirs, ours, alignment, trial.feeds, trial.bounds, failed=trial.failed, scratch=scratch, again=again
            )
        told = _told(theirs, ours, found, trial)
        result = result or told
        if told.first is not None:
            told = _by_scale(told, theirs, ours, found, trial)
            if reduced is not None:
                told = _reduced(told, theirs, ours, found, alignment, again, trial, reduced)
            return told
    assert result is not None  # noqa: S101 -- there is a trial
    return result


def _aligned(theirs: Part, ours: Part) -> Alignment:
    if {*theirs.inputs} != {*ours.inputs}:
        raise InputError(
            f"{ours.path.name} takes {', '.join(ours.inputs)}; {theirs.path.name} takes {', '.join(theirs.inputs)}",
            fix="Compare two builds of the same model.",
        )
    alignment = align(theirs, ours)
    inner = alignment.tensors.keys() - {*ours.inputs, *ours.outputs}
    if not inner and min(len(theirs.moving), len(ours.moving)) > _FEW:
        raise InputError(
            f"{ours.path.name} and {theirs.path.name} have no inner tensor in common",
            fix="Compare two builds of the same model.",
        )
    return alignment


def _reduced(
    told: Located,
    theirs: Part,
    ours: Part,
    found: Blamed,
    alignment: Alignment,
    again: Again | None,
    trial: Trial,
    path: Path,
) -> Located:
    """Add the small model; where none shows the failure, what was found stands, and that is said."""
    bad, why = found.bad[0], ""
    try:
        if again is not None and bad in found.random:
            small = reduce_random(ours, found.random[bad].tensor, again.feed, path)
            why = "its small model fails where it is run twice in one session: the arrays have what it returned once"
        else:
            pairs = {**found.alignment.tensors, bad: alignment.tensors[bad]}
            small = reduce_to(theirs, ours, pairs, bad, trial.feeds, path)
        return replace(told, reduced=small, note=_joined(told.note, why))
    except MeasurementError as error:
        return replace(told, note=_joined(told.note, error.message))


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _told(theirs: Part, ours: Part, found: Blamed, trial: Trial) -> Located:
    bad = set(found.bad)
    behind = _descendants(ours, [*found.bad, *(row.tensor for row in found.random.values())])
    # What is held to itself has to be the same.
    limit = math.inf if trial.how == "again" else min(trial.bounds.values(), default=0.0)
    layers: dict[str, LayerError] = {}
    for row in found.errors:
        if row.unlike and row.tensor not in behind:
            # No pair: the two graphs hold something else there.
            continue
        off = row.apart or bool(row.inherited.broken) or row.inherited.sqnr_db < limit
        verdict: LayerVerdict = "bad" if row.tensor in bad else "inherited" if off and row.tensor in behind else "clean"
        layer = _layer(theirs, ours, found, row, verdict)
        pair = row.reference or row.tensor
        known = layers.get(pair)
        # A cast back to an output's type says nothing that the layer before it does not.
        if known is None or known.verdict != "bad":
            layers[pair] = layer
    shown = tuple(layers.values())
    return Located(
        first=next((layer for layer in shown if layer.verdict == "bad"), None),
        layers=shown,
        candidate=str(ours.path),
        reference=str(theirs.path),
        samples=sum(len(next(iter(feed.values()))) for feed in trial.feeds),
        case=trial.case,
        note=found.note,
        outputs_db={name: _db(value) for name, value in found.outputs_db.items()},
    )


def _by_scale(told: Located, theirs: Part, ours: Part, found: Blamed, trial: Trial) -> Located:
    """Name the QuantizeLinear and the layer that reads it, where a scale is what is wrong."""
    first, tensor = told.first, found.bad[0]
    if first is None or first.note or tensor not in found.alignment.tensors:
        return told
    wrong = wrong_scale(theirs, ours, found.alignment.tensors, tensor, trial.feeds[0])
    if wrong is None:
        return told
    node, layer = wrong
    named = replace(
        first,
        node=node.name,
        op=node.op_type,
        module=note_of(layer) or first.module,
        source=note_of(layer, SOURCE_KEY) or first.source,
        note="without this quantisation the layer is right",
    )
    layers = tuple(named if one is first else one for one in told.layers)
    return replace(told, first=named, layers=layers)


def _layer(theirs: Part, ours: Part, found: Blamed, row: TensorError, verdict: LayerVerdict) -> LayerError:
    node, note = (ours.behind(row.tensor), "") if verdict != "bad" else _to_blame(theirs, ours, found.alignment, row)
    told, random = theirs.behind(row.reference), found.random.get(row.tensor)
    if random is not None:
        node, note = ours.nodes[ours.makers[random.tensor]], "it says something else on the same inputs"
        told = _before(theirs, ours, found.alignment, random.tensor) or told
    elif row.apart:
        note = "its shape is another one than the reference's"
    own = random.own if random is not None else row.own
    shown = node if node is not None else told
    # With a line and no module, a node is of the model itself.
    named = shown if note_of(shown) or note_of(shown, SOURCE_KEY) else told
    return LayerError(
        node=(shown.name if shown is not None else "") or row.tensor,
        op=shown.op_type if shown is not None else "input",
        module=note_of(named),
        source=note_of(named, SOURCE_KEY) or note_of(told, SOURCE_KEY),
        tensor=row.tensor,
        sqnr_db=_NONE_DB if row.apart else _db(row.inherited.sqnr_db),
        own_sqnr_db=_db(own.sqnr_db) if own is not None else None,
        verdict=verdict,
        cost_db=_db(found.cost_db[row.tensor]) if row.tensor in found.cost_db else None,
        non_finite=row.inherited.broken,
        note=note,
    )


def _before(theirs: Part, ours: Part, alignment: Alignment, name: str) -> onnx.NodeProto | None:
    """Return the reference's node of a tensor, or of the last one before it: noise is a layer's whose output has it."""
    ends = alignment.tensors.keys() & ours.makers.keys()
    read = [name] if name in ends else [one for one in ours.entries(ours.segment(name, ends)) if one in ends]
    last = max(read, key=lambda one: ours.makers[one], default="")
    return theirs.behind(alignment.tensors.get(last, ""))


def _to_blame(theirs: Part, ours: Part, alignment: Alignment, row: TensorError) -> tuple[onnx.NodeProto | None, str]:
    """Return the node that a bad tensor comes down to: one that is missing, one that is too many, or its own."""
    told, got = theirs.behind(row.reference), ours.behind(row.tensor)
    missing = _odd(theirs, row.reference, set(alignment.tensors.values()), alignment.reference_paired)
    extra = _odd(ours, row.tensor, alignment.tensors.keys(), alignment.candidate_paired)
    if missing and not any(node.op_type == missing[0].op_type for node in extra):
        return missing[0], "the candidate lacks it"
    if extra and not missing and told is not None and got is not None and told.op_type == got.op_type:
        return extra[0], "the reference has no such node"
    return got, ""


def _odd(part: Part, name: str, ends: Collection[str], paired: Collection[int]) -> list[onnx.NodeProto]:
    """Return the nodes behind a tensor that have no counterpart, but for what only holds numbers in another way."""
    nodes = [part.nodes[index] for index in part.segment(name, ends) if index not in paired]
    return [node for node in nodes if not added(node)]


def _descendants(part: Part, names: Sequence[str]) -> set[str]:
    found = set(names)
    for index in part.moving:
        node = part.nodes[index]
        if any(name in found for name in part.needs(index)):
            found.update(name for name in node.output if name)
    return found


def _db(value: float) -> float | None:
    if math.isinf(value):
        return None if value > 0 else _NONE_DB
    return max(value, _NONE_DB)
