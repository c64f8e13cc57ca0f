"""The Runner contract and its implementations: eager PyTorch, ONNX Runtime, TensorRT and TensorRT-RTX.

A runner is a context manager: entering it loads the model and takes the device, leaving it gives both back,
also after an error. Between the two, `infer` maps named numpy arrays to named numpy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Runner"]


@runtime_checkable
class Runner(Protocol):
    """Runs one model somewhere."""

    @property
    def runs(self) -> str:
        """What really runs, with version and device: `onnxruntime 1.32.0 CPU`."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the model's order; known once entered."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the model's order; known once entered."""
        ...

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once: `{input: array with the batch axis}` to `{output: array}`.

        InputError names an input that is missing, unknown, or of a wrong type or shape.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
