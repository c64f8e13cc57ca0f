"""An engine that is loaded and can be run from any thread: what a session and a runner have in common."""

from __future__ import annotations

import atexit
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from mmtrt.errors import InputError, MachineError, MmtrtError
from mmtrt.runtimes.checks import check_feeds
from mmtrt.runtimes.cuda import Cuda, open_cuda
from mmtrt.runtimes.engines.bound import EngineBound
from mmtrt.runtimes.engines.call import Call
from mmtrt.runtimes.engines.device import Device, when_allowed
from mmtrt.runtimes.engines.lane import Graphs, Lane
from mmtrt.runtimes.engines.plan import Plan, Shapes, checked_engine, open_plan
from mmtrt.runtimes.engines.pool import Loan, Pool
from mmtrt.runtimes.gate import closed_error
from mmtrt.runtimes.given import (
    DeviceTensor,
    Given,
    OutputKind,
    look,
)
from mmtrt.tensors import Feeds, ShapeRange, TensorSpec

__all__ = ["LoadedEngine"]

_KNOWN_FEEDS = 256

_open: weakref.WeakSet[LoadedEngine] = weakref.WeakSet()
_inherited: list[LoadedEngine] = []
"""Those of the parent, in a child that was forked: TensorRT must not free there what is not there."""


class LoadedEngine:
    """`contexts` runs at most take place at once, each in a lane with at most `graphs` CUDA graphs.

    `cache_folder` keeps what a just-in-time flavour compiles, where it is not to be mmtrt's own cache.
    InputError for a file that is no engine or was altered, MachineError where this machine can't load it: no GPU, no
    package, another version, another GPU.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: Callable[[], Cuda] = open_cuda,
        contexts: int = 2,
        graphs: int = 16,
        cache_folder: Path | None = None,
    ) -> None:
        checked = checked_engine(path)
        with ExitStack() as stack:
            self._device = Device(device())
            stack.callback(self._device.close)
            self._cuda = self._device.cuda
            self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
            before = self._free_bytes()
            self._plan: Plan | None = open_plan(checked, self._cuda.info.name, cache_folder=cache_folder)
            stack.callback(self._forget)
            # Contexts of bound runs that were dropped go before their engine.
            stack.callback(self._device.tidy)
            self.graphs = Graphs(graphs)
            self._pool = Pool(self.new_lane, contexts)
            self._bounds: weakref.WeakSet[EngineBound] = weakref.WeakSet()
            stack.callback(self._keep_cache)
            stack.callback(self._close_bounds)
            stack.callback(self._pool.close)
            # What can't run at all is told now.
            loan = Loan(self._pool)
            loan.begin()
            loan.end()
            self._engine_bytes = self._taken_since(before)
            self._stack = stack.pop_all()
        self._known: dict[object, Shapes] = {}
        self._lost = ""
        self._notes = [] if self._plan is None or self._plan.cache is None else self._plan.cache.notes
        self._closing = threading.Lock()
        _open.add(self)

    def _free_bytes(self) -> int | None:
        try:
            return self._cuda.free_bytes()
        except MachineError:
            return None

    def _taken_since(self, before: int | None) -> int | None:
        """Return what loading took of the device's memory beside the lanes'."""
        after = self._free_bytes()
        if before is None or after is None:
            return None
        return max(before - after - self._lanes_bytes(), 0)

    def _lanes_bytes(self) -> int:
        return sum(lane.device_bytes for lane in tuple(self._lanes))

    def _forget(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            plan.close()

    @property
    def plan(self) -> Plan:
        """The engine; an InputError once it is closed."""
        if self._plan is None:
            raise closed_error()
        return self._plan

    @property
    def runs(self) -> str:
        """What runs, and where."""
        return self.plan.runs

    @property
    def precision(self) -> str:
        """The precision that the manifest tells of; empty without one."""
        return self.plan.precision

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the engine's order."""
        return self.plan.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the engine's order."""
        return self.plan.outputs

    @property
    def ranges(self) -> Mapping[str, ShapeRange]:
        """The sizes that each input may have."""
        return self.plan.ranges

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not work as well as it might."""
        refused = (f"runs without CUDA graphs: {self.graphs.refused}",) if self.graphs.refused else ()
        return (*refused, *self._notes)

    @property
    def device_bytes(self) -> int | None:
        """Bytes of the device's memory in use; None where CUDA did not tell.

        The engine and its first context count by what loading took, workspaces and buffers one by one. What graphs
        and later contexts take beside that is not in it.
        """
        return None if self._engine_bytes is None else self._engine_bytes + self._lanes_bytes()

    @property
    def device(self) -> Device:
        """The GPU."""
        return self._device

    def new_lane(self) -> Lane:
        """Return a lane of the caller's own, who closes it."""
        self._cuda.activate()
        lane = Lane(self.plan, self._cuda, self.graphs)
        self._lanes.add(lane)
        return lane

    @contextmanager
    def own_lane(self) -> Iterator[Lane]:
        """Give a lane of the caller's own; `close` waits for its end."""
        self._device.check_process()
        with self._pool.guests.passing():
            lane = self.new_lane()
            try:
                yield lane
            finally:
                lane.close()

    def close(self) -> None:
        """Wait for runs under way, then give everything back; later runs are InputErrors.

        UsageError where the run under way is this thread's own.
        """
        if self._device.inherited:
            _inherited.append(self)
            return
        self._pool.check_closable()
        with self._closing:
            _open.discard(self)
            self._stack.close()

    def close_dropped(self) -> None:
        """Close what nobody holds any more, as soon as that may be; what fails then, nobody could mend."""
        with contextlib.suppress(MmtrtError):
            when_allowed(self.close)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way at this moment."""
        return self._pool.idle

    def _close_bounds(self) -> None:
        with ExitStack() as stack:
            for bound in tuple(self._bounds):
                stack.callback(bound.close)

    def _keep_cache(self) -> None:
        self._cuda.activate()
        self.plan.keep_cache()

    # ----------------------------------------------------------------------------------------- running

    def run(
        self, feeds: Mapping[str, Any], *, outputs: OutputKind | None = None, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run once and wait. InputError names an input that is wrong; after any error the next run works again."""
        self._device.check_process()
        if self._lost:
            raise self._lost_error(self._lost)
        call = Call(self._device)
        loan = Loan(self._pool)
        try:
            lane = loan.begin()
            self._cuda.activate()
            self._device.tidy()
            return call.run(lane, feeds, outputs, out or {}, self.checked)
        except InputError:
            raise
        except MmtrtError as error:
            loan.spoil()
            self._find_out(error)
            raise
        except BaseException:
            loan.spoil()
            raise
        finally:
            # What the device may be using is given back after the lane has come to rest.
            try:
                loan.end()
            finally:
                call.release()

    def bind(self, shapes: Mapping[str, Sequence[int]], feeds: Mapping[str, Any], owner: object = None) -> EngineBound:
        """Return a run at fixed shapes, with inputs as in `feeds` or zero; InputError for a wrong shape.

        `close` closes it too. `owner` is held until then.
        """
        self._device.check_process()
        with self._pool.guests.passing():
            given = Given()
            try:
                look(given, feeds, None)
                for spec in self.plan.inputs:
                    if spec.name in shapes:
                        shape = tuple(shapes[spec.name])
                        given.device[spec.name] = DeviceTensor(pointer=0, dtype=spec.dtype, shape=shape)
                wanted = self.checked(given)
                bound = EngineBound(self.new_lane(), self._device, wanted, given.host, owner)
            finally:
                given.release()
            self._bounds.add(bound)
        return bound

    def checked(self, given: Given) -> Shapes:
        """Return the shapes of inputs that have the right names, types and sizes; InputError names the first wrong."""
        tensors = given.all()
        key = tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())
        known = self._known.get(key)
        if known is not None:
            return known
        check_feeds(cast("Feeds", tensors), self.plan.inputs)
        for spec in self.plan.inputs:
            _check_range(spec.name, tensors[spec.name].shape, self.plan.ranges[spec.name])
        shapes = tuple(tuple(tensors[spec.name].shape) for spec in self.plan.inputs)
        if len(self._known) >= _KNOWN_FEEDS:
            self._known = {}
        self._known[key] = shapes
        return shapes

    def _find_out(self, error: MmtrtError) -> None:
        """Ask whether CUDA still answers after an error; if not, raise what says so."""
        try:
            self._cuda.free_bytes()
        except MmtrtError:
            self._lost = error.message
            raise self._lost_error(error.message) from error

    def _lost_error(self, why: str) -> MachineError:
        return MachineError(
            f"{why}\nCUDA is lost to this process: nothing more can run on the GPU",
            fix="Start the process again. If it happens again, check the inputs: an index may be out of its table.",
        )


def _check_range(name: str, shape: tuple[int, ...], span: ShapeRange) -> None:
    for axis, (low, size, high) in enumerate(zip(span.min, shape, span.max, strict=True)):
        if not low <= size <= high:
            raise InputError(
                f"input {name!r} has size {size} on axis {axis}, the engine takes {low} to {high}",
                fix="Feed a size in that range, or build the engine with a wider one.",
            )


@atexit.register
def _close_left() -> None:
    """Close at the process's end what nobody closed, before Python takes TensorRT's objects apart in any order.

    Where something is under way yet, in a daemon thread, waiting for it might never end.
    """
    for loaded in tuple(_open):
        if loaded.idle:
            loaded.close_dropped()
