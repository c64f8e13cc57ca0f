"""Which layers are bad: what each costs the outputs when it alone is wrong.

1. A layer's own error is that of the candidate's nodes on the reference's values.
2. What it costs is measured in the reference: all is right there but this one tensor, which takes the candidate's own
   value. A layer is bad where that alone takes an output out of its budget. So a noise that a right INT8 layer makes is
   judged by the same measure as a wrong weight, and each layer of a wrong checkpoint is as bad as it is.
3. Where the outputs are out of their budget and no layer is so by itself, the one that costs most is named.
4. What is far off behind a bad layer, and by itself is not, is inherited.
5. What says something else on the same inputs is bad, whatever it costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper

from mmtrt.parity.again import Again, place_of
from mmtrt.parity.alignment import Alignment, without
from mmtrt.parity.distance import Distance
from mmtrt.parity.moving import MOVED_DB, moved_tensors
from mmtrt.parity.probing import Probed, TensorError, probe
from mmtrt.parity.running import run_part
from mmtrt.parity.subgraphs import Part, with_inputs
from mmtrt.runtimes.ort import session_from
from mmtrt.tensors import Array, Feeds

__all__ = ["Blamed", "blame", "blame_itself"]

_AMPLIFIED_DB = 40.0
"""How much a graph may add to a layer's own error: what is this far within the budgets is no suspect."""
_COST_S = 240.0
"""How long costs may be measured, the worst layers first."""


@dataclass(slots=True, kw_only=True)
class Blamed:
    """What came out: pairs in the candidate's order, what those that were suspects cost, and which are bad.

    `cost_db` holds, by tensor, the SQNR of the output that is the farthest out of its budget, or nearest to it, when
    this tensor alone is wrong; `outputs_db` the candidate's outputs as they are; `alignment` the pairs that are pairs
    when they are run; `random` what random nodes made, by the bad tensor that stands for it.
    """

    errors: list[TensorError]
    cost_db: dict[str, float] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    outputs_db: dict[str, float] = field(default_factory=dict)
    note: str = ""
    alignment: Alignment
    random: dict[str, TensorError] = field(default_factory=dict)


def blame(
    theirs: Part,
    ours: Part,
    alignment: Alignment,
    feeds: Sequence[Feeds],
    bounds: Mapping[str, float],
    *,
    failed: bool,
    scratch: Path,
    again: Again | None = None,
) -> Blamed:
    """Probe a reference and a candidate and find the bad layers; `bounds` are the outputs' budgets in dB of SQNR.

    `failed` says that a check of the two failed, by whatever metric: then a layer is named in any case; `again` is how
    the candidate was run again. Values that are too many for memory are kept in the folder `scratch`.
    """
    largest = max(bounds.values(), default=0.0)
    with TemporaryDirectory(dir=scratch) as folder:
        probed = probe(theirs, ours, alignment, feeds, Path(folder, "0"), largest + _AMPLIFIED_DB)
        moved = moved_tensors(theirs, ours, alignment.tensors, probed.errors, largest + MOVED_DB, feeds[0])
        if moved:
            alignment = without(alignment, moved)
            probed = probe(theirs, ours, alignment, feeds, Path(folder, "1"), largest + _AMPLIFIED_DB)
        return _judged(theirs, ours, alignment, probed, feeds, bounds, failed=failed, again=again)


def _judged(
    reference: Part,
    candidate: Part,
    alignment: Alignment,
    probed: Probed,
    feeds: Sequence[Feeds],
    bounds: Mapping[str, float],
    *,
    failed: bool,
    again: Again | None,
) -> Blamed:
    alignment = without(alignment, {row.tensor for row in probed.errors if row.unlike})
    found = Blamed(errors=probed.errors, alignment=alignment)
    along = {row.tensor: row.inherited.sqnr_db for row in probed.errors if not row.unlike}
    found.outputs_db = {name: along[name] for name in candidate.outputs if name in along and name in bounds}
    worst = [(tensor, alignment.tensors[tensor], path) for tensor, path in probed.kept.worst()]
    worst = [row for row in worst if np.load(row[2])["arr_0"].dtype.kind != "b"]
    if worst:
        _measure(reference, worst, feeds, probed.outputs, bounds, found)
    _name_shapes(candidate, found)
    if again is not None:
        _name_random(candidate, found, again)
    out = failed or any(not value >= bounds[name] for name, value in found.outputs_db.items())
    if out and not found.bad:
        apart = next((row.tensor for row in probed.errors if row.apart), None)
        if apart is not None:
            found.bad = [apart]
        elif found.cost_db:
            least = min(found.cost_db, key=lambda name: found.cost_db[name])
            found.bad, found.note = [least], "no layer alone takes an output out of its budget: this one costs most"
    return found


def blame_itself(candidate: Part, alignment: Alignment, again: Again) -> Blamed:
    """Find what is random where the candidate is held to nothing but itself."""
    rows = [(row, alignment.tensors[name]) for name, row in again.errors.items() if name in alignment.tensors]
    errors = [TensorError(row.tensor, told, row.inherited, row.own, apart=row.apart) for row, told in rows]
    found = Blamed(errors=errors, alignment=alignment)
    found.outputs_db = {row.tensor: row.inherited.sqnr_db for row in errors if row.tensor in candidate.outputs}
    _name_random(candidate, found, again)
    return found


def _name_random(part: Part, found: Blamed, again: Again) -> None:
    """Apply rule 5: the next tensor that has a pair stands for what is random before it, where there is one.

    What reaches no output makes no difference.
    """
    pairs = {row.tensor for row in found.errors} & found.alignment.tensors.keys()
    for name, row in again.random.items():
        place = place_of(part, name, pairs | {*part.outputs})
        if place is None:
            continue
        if place not in pairs:
            place = name
            found.errors.append(TensorError(name, "", row.inherited, row.own, apart=row.apart))
        found.random.setdefault(place, row)
    order = {row.tensor: part.makers.get(row.tensor, -1) for row in found.errors}
    found.errors.sort(key=lambda row: order[row.tensor])
    found.bad = sorted({*found.bad, *found.random}, key=lambda name: order[name])


def _name_shapes(part: Part, found: Blamed) -> None:
    """Put in a bad tensor's place the first one on the way to it that has another shape than the reference's."""
    apart = [row.tensor for row in found.errors if row.apart]
    for place, tensor in enumerate(found.bad):
        way = set(part.segment(tensor, found.alignment.tensors.keys() - {tensor}))
        found.bad[place] = next((name for name in apart if part.makers[name] in way), tensor)
    found.bad = list(dict.fromkeys(found.bad))


def _measure(
    reference: Part,
    suspects: Sequence[tuple[str, str, Path]],
    feeds: Sequence[Feeds],
    truth: Sequence[Mapping[str, Array]],
    bounds: Mapping[str, float],
    found: Blamed,
) -> None:
    """Apply rule 2 to each suspect: tensor, the reference's tensor, and where the candidate's own values are."""
    outputs = [name for name in reference.outputs if name in bounds]
    kinds = {told: np.load(path)["arr_0"].dtype for _, told, path in suspects}
    session = session_from(_switched(reference, kinds, outputs), "verifying", folder=reference.path.parent)
    off = {name: value for told, kind in kinds.items() for name, value in _given(told, np.zeros(1, kind), on=False)}
    until = time.monotonic() + _COST_S
    for index, (tensor, told, path) in enumerate(suspects):
        if time.monotonic() > until:
            found.note = f"of {len(suspects)} layers with an error of their own the {index} largest were judged"
            break
        distances = {name: Distance() for name in outputs}
        values = np.load(path)
        for number, (feed, right) in enumerate(zip(feeds, truth, strict=True)):
            given = dict(_given(told, values[f"arr_{number}"], on=True))
            got = run_part(reference, session, outputs, {**feed, **off, **given})
            for name, distance in distances.items():
                distance.add(right[name], got[name])
        margins = {name: distance.sqnr_db - bounds[name] for name, distance in distances.items()}
        hurt = min(margins, key=lambda name: margins[name])
        found.cost_db[tensor] = distances[hurt].sqnr_db
        if not margins[hurt] >= 0:
            found.bad.append(tensor)
    order = {row.tensor: place for place, row in enumerate(found.errors)}
    found.bad.sort(key=lambda name: order[name])


def _given(name: str, array: Array, *, on: bool) -> list[tuple[str, Array]]:
    return [(f"{name}::on", np.array(on)), (f"{name}::value", array)]


def _switched(part: Part, kinds: Mapping[str, np.dtype[np.generic]], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the graph with a switch behind each tensor: it is as it was, or what is given."""
    model = part.cut(part.moving, {}, [], {})
    del model.graph.node[:]
    for node in part.nodes:
        made = onnx.NodeProto()
        made.CopyFrom(node)
        switched = [name for name in node.output if name in kinds]
        made.output[:] = [f"{name}::made" if name in kinds else name for name in node.output]
        model.graph.node.append(made)
        model.graph.node.extend(
            helper.make_node("Where", [f"{name}::on", f"{name}::value", f"{name}::made"], [name]) for name in switched
        )
    model.graph.input.extend(value for value in part.model.graph.input if value.name in part.inputs)
    for name, kind in kinds.items():
        number = helper.np_dtype_to_tensor_dtype(kind)
        model.graph.input.append(helper.make_tensor_value_info(f"{name}::on", onnx.TensorProto.BOOL, []))
        model.graph.input.append(helper.make_tensor_value_info(f"{name}::value", number, None))
    return with_inputs(model, {}, outputs)
