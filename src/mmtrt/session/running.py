"""Runs a model from Python: a bundle, a deployment, an engine on the GPU, or an ONNX on the CPU.

::

    with mmtrt.Session("model.int8.engine") as session:
        answer = session.run(image=image, ids=ids)["answer"]
    with mmtrt.Session("/opt/vqa") as session:
        answer = session.run(session.feeds(image="scene.png", question="what colour is the circle?"))["answer"]

For an engine it imports neither PyTorch nor ONNX.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mmtrt.errors import InputError, MachineError, UsageError
from mmtrt.runtimes.cuda import Cuda, open_cuda
from mmtrt.runtimes.engines.loaded import LoadedEngine
from mmtrt.runtimes.given import OutputKind
from mmtrt.runtimes.hosted import HostedRunner
from mmtrt.session.opening import Found, Runs, find
from mmtrt.tensors import Array, ShapeRange, TensorSpec, resolve_shape

if TYPE_CHECKING:
    from typing_extensions import Self

    from mmtrt.bundle.opening import Trust

__all__ = ["Bound", "Session"]

_KINDS = ("numpy", "torch", "dlpack")
_RUNS = ("engine", "onnx")
_ending, _warn = sys.is_finalizing, warnings.warn


class Bound(Protocol):
    """A run at fixed shapes: fill `inputs` in place, call `run`, read `outputs` before the next one."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def cuda_graph(self) -> bool:
        """Whether a run is one launch of a CUDA graph."""
        ...

    def run(self) -> Mapping[str, Array]:
        """Run, wait, and return `outputs`."""
        ...

    def close(self) -> None:
        """Give back what it holds; `close` of the session does so too."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class _Backend(Protocol):
    def run(
        self, feeds: Mapping[str, Any], *, outputs: OutputKind | None = None, out: Mapping[str, Any] | None = None
    ) -> dict[str, Any]: ...

    def bind(self, shapes: Mapping[str, Sequence[int]], feeds: Mapping[str, Any], owner: object) -> Bound: ...

    def close(self) -> None: ...

    def close_dropped(self) -> None: ...

    @property
    def runs(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def ranges(self) -> Mapping[str, ShapeRange]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...


class Session:
    """A model that is loaded: any thread may run it, at most `contexts` runs of an engine at once.

    `path` is a deployment's directory, a bundle (file or directory), an engine, its manifest
    (`model.int8.engine.json`), or an ONNX file, which runs on the CPU. `graphs` is the number of CUDA graphs that each
    context keeps, 0 for none. InputError for a file that is missing, altered or of no known kind; MachineError where
    this machine can't run it.

    Of a bundle the engine runs that fits this machine as it is; with `runs="onnx"` the ONNX does, on the CPU. `target`
    is one of the bundle's, where several would do, and `trust` verifies who signed it (`mmtrt.bundle.signing.trust`).

    `runs` says what runs and where, `inputs` and `outputs` are the tensors in the model's order, `ranges` the sizes
    that each input may have, where they are known, `precision` is `int8`, `fp16` or `fp32`, empty where nobody knows.
    `preprocessing` makes inputs of raw things and `labels` has the names of an output's classes, where the bundle
    carries them; else they are None and empty.
    """

    # There is nothing to close before it is open.
    _closed = True

    def __init__(
        self,
        path: str | Path,
        *,
        contexts: int = 2,
        graphs: int = 16,
        device: Callable[[], Cuda] = open_cuda,
        runs: Runs = "engine",
        target: str | None = None,
        trust: Trust | None = None,
    ) -> None:
        if contexts < 1 or graphs < 0:
            raise UsageError(f"a session has at least one context and no fewer than 0 graphs: {contexts}, {graphs}")
        if runs not in _RUNS:
            raise UsageError(f"runs={runs!r} is unknown", fix=f"Known are {', '.join(_RUNS)}.")
        found = find(Path(path), runs=runs, target=target, trust=trust, device=device)
        try:
            self._backend = _backend_of(found, contexts, graphs)
        except BaseException:
            found.give_up()
            raise
        if found.folder is not None and found.file.suffix != ".onnx":
            # An engine is in memory now; a kill would leave what lies on the disk.
            found.folder.close()
        self._folder = found.folder
        self._closed = False
        self.path = found.file if found.folder is None else Path(path)
        self.runs = self._backend.runs
        self.precision = self._backend.precision
        self.inputs = self._backend.inputs
        self.outputs = self._backend.outputs
        self.ranges = self._backend.ranges
        self.preprocessing = found.preprocessing
        self.labels = found.labels

    @property
    def notes(self) -> tuple[str, ...]:
        """What does not work as well as it might, and why: no graphs, no cache of compiled kernels."""
        return self._backend.notes

    def run(
        self,
        feeds: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: OutputKind | None = None,
        out: Mapping[str, Any] | None = None,
        **named: Any,
    ) -> dict[str, Any]:
        """Run once and wait: `run(image=..., ids=...)` or `run({"image": ..., "ids": ...})`.

        Tensors may be numpy's, PyTorch's on CPU or GPU, or anybody's who speaks DLPack; those on the engine's GPU are
        read where they lie. Outputs are numpy arrays of the caller's own, or PyTorch tensors on the GPU where an
        input was one; `outputs` asks for `numpy`, `torch` (where the inputs are) or `dlpack` (on the GPU, without
        PyTorch). `out` gives memory to fill by name, on either side. Whatever was on its way to a GPU tensor when it
        was handed in is waited for; when `run` returns, all is there.

        InputError names an input or output that is wrong, or says that the session is closed; MachineError and
        MeasurementError tell that CUDA or TensorRT failed. The session works after each, but where CUDA is lost.
        """
        if outputs is not None and outputs not in _KINDS:
            raise UsageError(f"outputs={outputs!r} is unknown", fix=f"Known are {', '.join(_KINDS)}.")
        if out is not None and not isinstance(out, Mapping):
            raise InputError(
                f"memory for outputs is given by name, and this is {type(out).__name__}", fix="out={'answer': memory}"
            )
        return self._backend.run(_merged(feeds, named), outputs=outputs, out=out)

    def feeds(self, raw: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Array]:
        """Make inputs for `run` of raw things: `feeds(image=picture, question="what colour is the circle?")`.

        See `mmtrt.preprocess.Preprocessing.feeds`. InputError where the model tells no preprocessing.
        """
        if self.preprocessing is None:
            raise InputError(
                f"{self.path} tells nothing of how its inputs are made",
                fix="Hand tensors to run; a bundle carries the preprocessing where the model's source tells it.",
            )
        return self.preprocessing.feeds(raw, **named)

    def bind(self, feeds: Mapping[str, Any] | None = None, /, **named: Any) -> Bound:
        """Return a run at fixed shapes for loops: `bind(image=(1, 3, 224, 224), ids=(1, 12))`, or with tensors.

        Its inputs and outputs are numpy arrays in pinned memory, filled and read in place; `run` launches one CUDA
        graph that holds copies and kernels. Inputs given as shapes are zero; one whose shape is fixed may be left out.
        """
        shapes: dict[str, Sequence[int]] = {}
        tensors = {}
        for name, value in _merged(feeds, named).items():
            if isinstance(value, tuple | list):
                shapes[name] = _shape(name, value)
            else:
                tensors[name] = value
        for spec in self.inputs:
            if spec.name not in shapes and spec.name not in tensors and all(isinstance(dim, int) for dim in spec.shape):
                shapes[spec.name] = resolve_shape(spec.shape, {})
        return self._backend.bind(shapes, tensors, self)

    def close(self) -> None:
        """Wait for runs under way and give everything back; later runs raise InputError. A second call is fine."""
        self._backend.close()
        self._closed = True
        if self._folder is not None:
            self._folder.close()

    def __del__(self) -> None:
        # Where Python goes already, nothing can be called any more; what is open then was closed just before.
        if not self._closed and not _ending():
            self._backend.close_dropped()
            _warn(f"the session of {self.path} was dropped without close", ResourceWarning, source=self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _backend_of(found: Found, contexts: int, graphs: int) -> _Backend:
    backend: _Backend
    if found.file.suffix == ".onnx":
        backend = _open_onnx(found.file)
    else:
        backend = LoadedEngine(
            found.file, device=found.device, contexts=contexts, graphs=graphs, cache_folder=found.cache
        )
    try:
        _check_told(found, backend)
    except BaseException:
        backend.close()
        raise
    return backend


def _check_told(found: Found, backend: _Backend) -> None:
    """Hold what a bundle tells of inputs and classes against the model that runs."""
    if found.preprocessing is not None:
        found.preprocessing.check(backend.inputs, found.file.name)
    for spec in backend.outputs:
        names, size = found.labels.get(spec.name), spec.shape[-1] if spec.shape else None
        if names is not None and isinstance(size, int) and size != len(names):
            raise InputError(f"output {spec.name!r} has {size} classes, and {len(names)} names are given for them")


def _open_onnx(file: Path) -> HostedRunner:
    if find_spec("onnxruntime") is None:
        raise MachineError("ONNX Runtime, which runs an ONNX, is not installed", fix="pip install 'mmtrt[onnx]'")
    # What runs engines must do without ONNX.
    from mmtrt.onnx_files import model_spec, open_model
    from mmtrt.precision.converted import stored_precision
    from mmtrt.runtimes.ort import OrtRunner

    model = open_model(file)
    spec = model_spec(model)
    sizes = {dim for tensor in spec.inputs for dim in tensor.shape if isinstance(dim, str)}
    ranges = spec.profile() if sizes <= spec.ranges.keys() else {}
    return HostedRunner(OrtRunner(file, "speed"), precision=stored_precision(model), ranges=ranges)


def _merged(feeds: Mapping[str, Any] | None, named: Mapping[str, Any]) -> Mapping[str, Any]:
    if feeds is None:
        return named
    if not isinstance(feeds, Mapping):
        raise InputError(
            f"inputs are handed in by name, and this is {type(feeds).__name__}",
            fix="session.run(image=..., ids=...) or session.run({'image': ..., 'ids': ...})",
        )
    for name in named:
        if name in feeds:
            raise InputError(f"input {name!r} is given twice")
    return {**feeds, **named} if named else feeds


def _shape(name: str, value: Sequence[Any]) -> tuple[int, ...]:
    if not all(isinstance(size, int | np.integer) and size >= 0 for size in value):
        raise InputError(f"input {name!r} is neither a tensor nor a shape: {value!r}")
    return tuple(int(size) for size in value)
