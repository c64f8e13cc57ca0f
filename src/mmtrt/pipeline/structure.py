"""What an ONNX becomes in an engine at given sizes: kernels, their bytes and work, and an estimate of the time."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.engine.estimate import Estimate, Gpu, estimate
from mmtrt.errors import BuildError
from mmtrt.onnx_files import load_model
from mmtrt.precision.graph import mac_nodes, typed, usual_shapes, with_sizes
from mmtrt.precision.placement import Kernel, Priced

__all__ = ["EnginePrice", "engine_structure"]


def engine_structure(path: Path, sizes: Mapping[str, int], gpu: Gpu, options: BuildOptions | None = None) -> Estimate:
    """Build an engine for one set of sizes, look at its layers, and throw it away; nothing is run.

    BuildError where the builder refuses the model or does not tell its layers; the other errors of `build_engine`.
    """
    proto = load_model(path)
    fixed = with_sizes(proto, sizes)
    macs = {mac.name: mac.macs for mac in mac_nodes(ir.from_proto(typed(proto)), usual_shapes(proto, sizes))}
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(fixed, Path(folder, path.name))
        built = build_engine(
            Path(folder, path.name), Path(folder, "engine"), profile={}, options=options or BuildOptions()
        )
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
