"""Placement by the engine: what is judged is a made-up builder whose kernels follow from what is INT8."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
import pytest

from mmtrt.precision.graph import MacNode
from mmtrt.precision.placement import Kernel, Placement, Priced, place


def macs(*work: int) -> list[MacNode]:
    """Products named m0, m1, ... with so many multiply-accumulates."""
    return [MacNode(ir.Node("", "MatMul", [], name=f"m{i}", num_outputs=1), n, 1, 1) for i, n in enumerate(work)]


class Origin:
    """`m3.q` stands behind node `n3` and is read by product `m3`."""

    def owner(self, name: str) -> str | None:
        return f"n{name[1:-2]}" if name.endswith(".q") else name

    def readers(self, name: str) -> list[str]:
        return [name[:-2]] if name.endswith(".q") else []


class Builder:
    """Each product is a kernel and has a normalisation before it; INT8 adds what `cost` tells of it."""

    def __init__(self, names: list[str], cost: dict[str, tuple[int, float]], rest: int = 40) -> None:
        self.names, self.cost, self.rest = names, cost, rest
        self.built: list[set[str]] = []

    def __call__(self, keep: Iterable[str]) -> Priced:
        inside = set(self.names) - set(keep)
        self.built.append(inside)
        kernels = [Kernel((f"other{i}",), 10.0) for i in range(self.rest)]
        for name in self.names:
            more, time_us = self.cost[name] if name in inside else (0, 0.0)
            kernels += [Kernel((name,), 10.0), Kernel((f"n{name[1:]}",), 2.0)]
            kernels += [Kernel((f"{name}.q",), time_us / more) for _ in range(more)]
            if not more and time_us:
                kernels[-2] = Kernel((name,), 10.0 + time_us)
        return Priced(kernels=tuple(kernels), target="a GPU")


def placed(work: list[int], cost: list[tuple[int, float]]) -> tuple[Placement | None, Builder]:
    nodes = macs(*work)
    builder = Builder([mac.name for mac in nodes], {mac.name: c for mac, c in zip(nodes, cost, strict=True)})
    return place(nodes, builder, Origin()), builder


def test_what_costs_nothing_becomes_int8() -> None:
    found, _ = placed([5, 5, 5], [(0, -1.0)] * 3)
    assert found is not None
    assert found.kept == {}
    assert found.found.time_us < found.fp16.time_us


def test_the_room_goes_to_those_with_most_work() -> None:
    """46 kernels leave room for two more: of five that cost one each, the two with most work get it."""
    found, _ = placed([10, 80, 20, 90, 30], [(1, 2.0)] * 5)
    assert found is not None
    assert set(found.kept) == {"m0", "m2", "m4"}
    assert len(found.found.kernels) <= 1.05 * len(found.fp16.kernels)
    assert "1.0 kernels and +2.0 us" in found.kept["m0"]
    assert "a GPU" in found.kept["m0"]


def test_a_kernel_that_takes_too_long_is_not_worth_its_work() -> None:
    found, _ = placed([1000, 50], [(1, 400.0), (1, 2.0)])
    assert found is not None
    assert set(found.kept) == {"m0"}


def test_where_int8_gains_nowhere() -> None:
    found, builder = placed([5, 5], [(9, 90.0)] * 2)
    assert found is None
    assert builder.built == [set(), {"m0", "m1"}]


@pytest.mark.parametrize("alone", [1, 3])
def test_a_site_that_costs_more_alone_is_taken_back(alone: int) -> None:
    """Among its like each costs nothing; but m0's neighbour is too dear, and without it m0 costs kernels itself."""

    class Tied(Builder):
        def __call__(self, keep: Iterable[str]) -> Priced:
            keep = set(keep)
            self.cost["m0"] = (0, 0.0) if "m1" not in keep else (alone, 2.0 * alone)
            return super().__call__(keep)

    nodes = macs(100, 10, 50)
    builder = Tied(["m0", "m1", "m2"], {"m0": (0, 0.0), "m1": (9, 90.0), "m2": (0, 0.0)})
    found = place(nodes, builder, Origin())
    assert found is not None
    assert set(found.kept) == ({"m1"} if alone == 1 else {"m0", "m1"})
