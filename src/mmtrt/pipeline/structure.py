"""What an ONNX becomes in an engine at given sizes: kernels, their bytes and work, and an estimate of the time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.engine.estimate import Estimate, Gpu, estimate
from mmtrt.errors import BuildError
from mmtrt.onnx_files import data_files, open_model
from mmtrt.precision.graph import mac_nodes, typed, usual_shapes, with_sizes, with_weights_in
from mmtrt.precision.placement import Kernel, Priced

__all__ = ["EnginePrice", "engine_structure"]


def engine_structure(path: Path, sizes: Mapping[str, int], gpu: Gpu, options: BuildOptions | None = None) -> Estimate:
    """Build an engine for one set of sizes, look at its layers, and throw it away; nothing is run.

    BuildError where the builder refuses the model or does not tell its layers; the other errors of `build_engine`.
    """
    proto = open_model(path)
    nodes = mac_nodes(with_weights_in(typed(proto), path.parent), usual_shapes(proto, sizes))
    macs = {mac.name: mac.macs for mac in nodes}
    with tempfile.TemporaryDirectory(prefix="mmtrt-") as folder:
        # Weights stay where they are: the builder finds them behind links, in the place where the graph looks.
        for location in data_files(proto, path):
            at = Path(folder, location)
            at.parent.mkdir(parents=True, exist_ok=True)
            at.symlink_to(path.parent.absolute() / location)
        sized = Path(folder, f"{path.stem}.sized.onnx")
        onnx.save(with_sizes(proto, sizes), sized)
        built = build_engine(sized, Path(folder, "engine"), profile={}, options=options or BuildOptions())
    if built.layers is None:
        raise BuildError("the builder did not tell the layers of the engine", fix="TensorRT-RTX 1.7.1 tells them.")
    return estimate(built.layers, macs, gpu)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePrice:
    """Builds a file and tells its kernels with estimated times, for the precision passes; it can be pickled."""

    gpu: Gpu
    options: BuildOptions

    def __call__(self, path: Path, sizes: Mapping[str, int]) -> Priced:
        """Return the kernels at these sizes; BuildError where they can't be told, also for an open axis inside."""
        try:
            found = engine_structure(path, sizes, self.gpu, self.options)
        except ValueError as error:
            raise BuildError(f"the engine's time can't be estimated: {error}") from error
        kernels = tuple(Kernel(kernel.layer.nodes, kernel.time_us) for kernel in found.kernels)
        return Priced(kernels=kernels, target=self.gpu.name)
