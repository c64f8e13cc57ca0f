"""ONNX Runtime on the CPU, in this process; `mmtrt.isolation` puts it into one that may die."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx
import onnxruntime as ort

from mmtrt.errors import MeasurementError, ModelError
from mmtrt.machine import available_cores
from mmtrt.onnx_files import elem_types, open_model
from mmtrt.runtimes.checks import check_feeds
from mmtrt.runtimes.halves import holds_halves, rounded_halves
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OrtRunner", "run_feeds", "session_from", "session_options"]

Purpose = Literal["parity", "speed", "watching", "verifying"]
_LEVELS = {
    # ONNX Runtime's own fusions change INT8 results by decibels; what is judged must be the graph as it stands.
    "parity": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "speed": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "watching": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "verifying": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_DTYPES = {
    f"tensor({onnx.helper.tensor_dtype_to_string(n).split('.')[-1].lower()})": d for n, d in elem_types().items()
}


def session_from(
    model: onnx.ModelProto | str, purpose: Purpose, *, folder: Path | None = None, threads: int | None = None
) -> ort.InferenceSession:
    """Open a session on a model, whose external data lie in `folder`, or on a path; ModelError says why that fails.

    For `parity` and `verifying` a model's FP16 results are rounded to FP16; a path is opened as it is.
    For `watching` shapes differ from run to run, and another thread looks at the last run's values meanwhile;
    `verifying` is parity in a few runs, beside PyTorch with the same weights: they stay in their file.
    """
    options = session_options(purpose, threads=threads)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        given = model if isinstance(model, str) else _judged(model, purpose).SerializeToString()
        return ort.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"ONNX Runtime refuses the model: {reason}") from error


def session_options(purpose: Purpose, *, threads: int | None = None) -> ort.SessionOptions:
    """Return the options that a session of that purpose is opened with."""
    options = ort.SessionOptions()
    options.graph_optimization_level = _LEVELS[purpose]
    options.log_severity_level = 4
    # Its threads would go on spinning after a run, on cores that belong to the next contender or to numpy.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.intra_op_num_threads = threads or available_cores()
    # The arena keeps the largest batch's memory for good; parity over many shapes must not grow.
    options.enable_cpu_mem_arena = purpose not in {"parity", "verifying"}
    # A plan of the memory is worth making for shapes that come again.
    options.enable_mem_pattern = purpose != "watching"
    if purpose == "watching":
        # Equal parts for all threads would wait for the one whose core numpy has; small ones go to who is free.
        options.add_session_config_entry("session.dynamic_block_base", "4")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if purpose == "verifying":
        # Packed for speed, each weight would be in memory once more.
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _judged(model: onnx.ModelProto, purpose: Purpose) -> onnx.ModelProto:
    if purpose not in {"parity", "verifying"} or not holds_halves(model):
        return model
    # Where types of a node's inputs don't agree, rounding would put casts, and a graph that no builder takes would run.
    onnx.shape_inference.infer_shapes(model, check_type=True)
    return rounded_halves(model)


class OrtRunner:
    """Runs an ONNX file; `purpose` says whether its graph stays as it stands or is optimised."""

    def __init__(self, path: Path, purpose: Purpose, *, threads: int | None = None) -> None:
        self._path = path
        self._purpose: Purpose = purpose
        self._threads = threads
        self._session: ort.InferenceSession | None = None

    @property
    def runs(self) -> str:
        """ONNX Runtime's version and device."""
        return f"onnxruntime {ort.__version__} CPU"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the graph's order."""
        return _specs(self._open.get_inputs())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the graph's order."""
        return _specs(self._open.get_outputs())

    @property
    def _open(self) -> ort.InferenceSession:
        if self._session is None:
            raise RuntimeError("the runner is used outside its with-block")
        return self._session

    def __enter__(self) -> Self:
        # ONNX Runtime reads external data wherever it points; our own loader refuses what lies outside.
        model = open_model(self._path)
        if self._purpose == "verifying" or (self._purpose == "parity" and holds_halves(model)):
            self._session = session_from(model, self._purpose, folder=self._path.parent, threads=self._threads)
        else:
            self._session = session_from(str(self._path), self._purpose, threads=self._threads)
        return self

    def __exit__(self, *exc: object) -> None:
        self._session = None

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; MeasurementError with ONNX Runtime's reason where the graph itself fails."""
        check_feeds(feeds, self.inputs)
        names = [output.name for output in self._open.get_outputs()]
        try:
            return dict(zip(names, self._open.run(names, dict(feeds)), strict=True))
        except Exception as error:
            raise MeasurementError(f"{self._path}: ONNX Runtime failed: {error}") from error


def run_feeds(path: Path, feeds: Sequence[Feeds]) -> list[dict[str, Array]]:
    """Run an ONNX file once on each of some feeds, of which it takes what it has inputs for: to verify an export.

    It stands here for its process to import neither PyTorch nor the exporter.
    """
    with OrtRunner(path, "verifying") as runner:
        taken = {spec.name for spec in runner.inputs}
        return [runner.infer({name: array for name, array in feed.items() if name in taken}) for feed in feeds]


def _specs(values: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=value.name,
            dtype=_DTYPES.get(value.type, value.type),
            shape=tuple(dim if dim is not None else f"{value.name}_{axis}" for axis, dim in enumerate(value.shape)),
        )
        for value in values
    )
