"""INT8 where the engine gains by it: placement judged by the kernels that a builder makes of it.

Q/DQ change more than the type of a product: they part what FP16 fuses, and add kernels that only convert. So the model
is built twice, without and with INT8 wherever the rules of `plan.py` allow it, and both engines are taken apart into
regions: sets of kernels of either engine that share nodes. Where INT8 takes neither more kernels nor more time it is
placed; then where it does most work for an added kernel, as long as kernels and time stay within 5 % of the FP16
engine's. What comes out is built, what its sites cost there is learnt, and the costliest are taken back until it
holds. Times are estimates (`mmtrt.engine.estimate`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_ir as ir

from mmtrt.precision.graph import MacNode

__all__ = ["Kernel", "ModelOrigin", "Origin", "Placement", "Priced", "place"]

_MORE = 1.05
"""How many times the FP16 engine's kernels and time are allowed."""
_TRIALS = 6


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel of an engine: the ONNX nodes that went into it, and its time in microseconds, estimated."""

    nodes: tuple[str, ...]
    time_us: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """An engine's kernels at the usual sizes; `target` says what for, as a person would."""

    kernels: tuple[Kernel, ...]
    target: str

    @property
    def time_us(self) -> float:
        """The sum over the kernels."""
        return sum(kernel.time_us for kernel in self.kernels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What stays out of INT8, by node with the reason; `fp16` is the engine without INT8, `found` the one chosen."""

    kept: Mapping[str, str]
    fp16: Priced
    found: Priced
    builds: int


class Origin(Protocol):
    """Where nodes of what is built come from."""

    def owner(self, name: str) -> str | None:
        """Return the node of the float model that a node is, or stands behind."""

    def readers(self, name: str) -> Collection[str]:
        """Return the products that read what an added node makes; nothing for a node of the float model."""


class ModelOrigin:
    """Tells where the nodes of a converted model come from: what is added is named after the value it stands behind."""

    def __init__(self, model: ir.Model, macs: Iterable[MacNode]) -> None:
        self._nodes = {node.name for node in model.graph}
        self._makers = {value.name: node.name for node in model.graph for value in node.outputs}
        self._readers: dict[str | None, list[str]] = {}
        for mac in macs:
            for index in mac.activations:
                value = mac.node.inputs[index]
                self._readers.setdefault(value.name if value is not None else None, []).append(mac.name)

    def owner(self, name: str) -> str | None:
        """Return the node of the float model that a node is, or stands behind."""
        return name if name in self._nodes else self._behind(name, self._makers)

    def readers(self, name: str) -> Collection[str]:
        """Return the products that read what an added node makes; nothing for a node of the float model."""
        return () if name in self._nodes else self._behind(name, self._readers) or ()

    def _behind(self, name: str, known: Mapping[Any, Any]) -> Any:
        while "." in name:
            name = name.rpartition(".")[0]
            if name in known:
                return known[name]
        return None


@dataclass(slots=True)
class _Region:
    """What the same nodes become in either engine, the products among them, and those that read what was added."""

    kernels: int = 0
    time_us: float = 0.0
    macs: list[MacNode] = field(default_factory=list)
    readers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Site:
    """Products that become INT8 together, and by how many kernels and microseconds that changes the engine."""

    macs: Sequence[MacNode]
    kernels: float
    time_us: float

    @property
    def work(self) -> int:
        return sum(mac.macs for mac in self.macs)

    @property
    def names(self) -> set[str]:
        return {mac.name for mac in self.macs}


def place(nodes: Sequence[MacNode], price: Callable[[Iterable[str]], Priced], origin: Origin) -> Placement | None:
    """Return which of `nodes` stay out of INT8; None where INT8 gains nowhere.

    `price` builds the model with these nodes kept; `origin` tells where the nodes of what is built come from.
    """
    every = [mac.name for mac in nodes]
    fp16, int8 = price(every), price(())
    regions = _regions(nodes, fp16, int8, origin)
    sites = [_Site(region.macs, 0, 0.0) for region in regions if region.macs]
    _learn(sites, regions)
    room = _Room((_MORE - 1) * len(fp16.kernels), (_MORE - 1) * fp16.time_us)
    chosen = _chosen(sites, room)
    for trial in range(_TRIALS):
        inside = {name for site in chosen for name in site.names}
        if not inside:
            break
        found = price([name for name in every if name not in inside])
        if _within(found, fp16):
            why = {mac.name: _why(site, fp16) for site in sites for mac in site.macs}
            rest = {name: why.get(name, "the engine does not tell its kernel") for name in every if name not in inside}
            return Placement(kept=rest, fp16=fp16, found=found, builds=3 + trial)
        # Alone among FP16 a site may cost more than among its like: now that is known.
        _learn(chosen, _regions([mac for mac in nodes if mac.name in inside], fp16, found, origin))
        chosen = _fewer(chosen, room, fp16, found)
    return None


def _within(found: Priced, fp16: Priced) -> bool:
    return len(found.kernels) <= _MORE * len(fp16.kernels) and found.time_us <= _MORE * fp16.time_us


@dataclass(slots=True)
class _Room:
    """How many kernels and microseconds INT8 may add."""

    kernels: float
    time_us: float

    def share(self, site: _Site) -> float:
        """Return how much of it a site takes, at least a little."""
        return max(site.kernels / max(self.kernels, 0.5), site.time_us / max(self.time_us, 0.5), 0.01)


def _chosen(sites: Sequence[_Site], room: _Room) -> list[_Site]:
    """Return the sites that become INT8: those with the most work for the room that they take, while there is some."""
    kernels, time_us = room.kernels, room.time_us
    chosen = []
    for site in sorted(sites, key=lambda site: -site.work / room.share(site)):
        if site.kernels <= kernels and site.time_us <= time_us:
            chosen.append(site)
            kernels -= max(site.kernels, 0)
            time_us -= max(site.time_us, 0.0)
    return chosen


def _fewer(chosen: Sequence[_Site], room: _Room, fp16: Priced, found: Priced) -> list[_Site]:
    """Return the sites without those that do least work for what they cost, so that the engine should fit."""
    kernels = len(found.kernels) - len(fp16.kernels) - room.kernels
    time_us = found.time_us - fp16.time_us - room.time_us
    kept = sorted(chosen, key=lambda site: -site.work / room.share(site))
    while kept and (kernels > 0 or time_us > 0):
        # One that costs nothing by itself may be what a neighbour's cost comes from.
        last = next((site for site in reversed(kept) if site.kernels > 0 or site.time_us > 0), kept[-1])
        kept.remove(last)
        kernels -= last.kernels
        time_us -= last.time_us
    return kept


def _learn(sites: Sequence[_Site], regions: Sequence[_Region]) -> None:
    """Tell the sites what they cost in an engine where they are INT8, in place of what was known of them.

    A region without products is paid by those that read what was added there: a normalisation that no longer fits into
    one kernel, a quantisation of its own.
    """
    for site in sites:
        site.kernels, site.time_us = 0, 0.0
    for region in regions:
        names = {mac.name for mac in region.macs} or region.readers
        here = [site for site in sites if site.names & names]
        for site in here:
            site.kernels += region.kernels / len(here)
            site.time_us += region.time_us / len(here)


def _why(site: _Site, fp16: Priced) -> str:
    more = f"{site.kernels:+.1f} kernels and {site.time_us:+.1f} us"
    return f"INT8 there changes the engine by {more}, by the estimate for {fp16.target}"


def _regions(nodes: Sequence[MacNode], fp16: Priced, int8: Priced, origin: Origin) -> list[_Region]:
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owned: list[tuple[int, Kernel, list[str]]] = []
    for sign, priced in ((-1, fp16), (1, int8)):
        for kernel in priced.kernels:
            # A product's kernel names the Q/DQ in front of it too, which would tie it to what is before.
            owners = {name: origin.owner(name) for name in kernel.nodes}
            own = {name for name in kernel.nodes if owners[name] == name}
            names = sorted(own or {name for name in owners.values() if name is not None})
            owned.append((sign, kernel, names))
            for name in names[1:]:
                parent[root(name)] = root(names[0])
    regions: dict[str, _Region] = {}
    for sign, kernel, names in owned:
        if names:
            region = regions.setdefault(root(names[0]), _Region())
            region.kernels += sign
            region.time_us += sign * kernel.time_us
            region.readers.update(reader for name in kernel.nodes for reader in origin.readers(name))
    for mac in nodes:
        if mac.name in parent and root(mac.name) in regions:
            regions[root(mac.name)].macs.append(mac)
    return list(regions.values())
