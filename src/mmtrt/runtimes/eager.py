"""Eager PyTorch on the CPU, or on a GPU where the module lies there: the reference that all others answer to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from mmtrt.runtimes.checks import check_feeds
from mmtrt.tensors import Array, Feeds, TensorSpec

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EagerRunner"]


class EagerRunner:
    """Runs a `torch.nn.Module` whose forward takes the inputs by name."""

    def __init__(
        self, module: torch.nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str] | None = None
    ) -> None:
        self._module = module
        self._inputs = tuple(inputs)
        self._names = tuple(outputs) if outputs is not None else None
        fused = (torch.nn.MultiheadAttention, torch.nn.TransformerEncoderLayer)
        self._fused = any(isinstance(part, fused) for part in module.modules())
        parameter = next(iter(module.parameters()), None)
        self._device = parameter.device if parameter is not None else torch.device("cpu")

    @property
    def runs(self) -> str:
        """PyTorch's version and the device."""
        where = "CPU" if self._device.type == "cpu" else torch.cuda.get_device_name(self._device)
        return f"PyTorch {torch.__version__} eager {where}"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the order of `forward`."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs' names; a module tells neither dtypes nor shapes before it runs."""
        return tuple(TensorSpec(name=name, dtype="float32", shape=()) for name in self._names or ())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once, without gradients."""
        check_feeds(feeds, self._inputs)
        tensors = {name: torch.from_numpy(np.asarray(feeds[name], order="C")).to(self._device) for name in feeds}
        with torch.inference_mode():
            leaves = self._leaves(tensors)
        names = self._names or [f"output_{i}" for i in range(len(leaves))]
        return {name: leaf.cpu().numpy() for name, leaf in zip(names, leaves, strict=True)}

    def _leaves(self, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """Run; again without PyTorch's fused attention where that fails, or gives NaN, on tokens that see nothing."""
        if not self._fused:
            return flat_tensors(self._module(**tensors))
        with contextlib.suppress(RuntimeError):
            leaves = flat_tensors(self._module(**tensors))
            if not any(leaf.is_floating_point() and bool(leaf.isnan().any()) for leaf in leaves):
                return leaves
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(value=False)
        try:
            return flat_tensors(self._module(**tensors))
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)


def flat_tensors(outputs: Any) -> list[torch.Tensor]:
    """Return the tensors of a tuple, dict or dataclass-like output, in the order that the exporter gives them."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
