"""Makes engines for the emulated GPU from an ONNX, with the manifest that `mmtrt build` would write.

    python tests/emulated/run.py python tests/emulated/plans.py model.onnx model.engine [--flavor tensorrt-rtx]
        [--work none | spin:NS] [--shape NAME=MIN:OPT:MAX, as 1x3x16x16:4x3x16x16:8x3x16x16]

Without `--shape` the ranges are those that the ONNX itself carries.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import onnx
from engine_stand_in.plan import pack

from mmtrt.artifacts import file_digest
from mmtrt.engine import manifest
from mmtrt.engine.build import BuildOptions, EngineBuild
from mmtrt.engine.profiles import NetworkTensor
from mmtrt.onnx_files import load_model, model_spec
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.tensorrt_api import FlavourName
from mmtrt.tensors import ShapeRange

__all__ = ["make_plan"]

MAGIC: dict[FlavourName, bytes] = {"tensorrt": b"ftrt", "tensorrt-rtx": b"vtrt"}
_GPU = GpuInfo(name="Emulated GPU (software, times mean nothing)", compute_capability="8.7", memory_mib=1024, driver="")


def make_plan(
    model: Path,
    engine: Path,
    *,
    flavor: FlavourName = "tensorrt",
    profile: Mapping[str, ShapeRange] | None = None,
    work: str = "run",
    with_manifest: bool = True,
) -> Path:
    """Write an engine, with its manifest beside it; return its path.

    `profile` has the range of each dynamic input, those of the ONNX where it is None. `work` is what an execution
    does: `run` runs the ONNX, `none` nothing at all, `spin:NS` keeps the stream busy for so many nanoseconds.
    """
    spec = model_spec(load_model(model))
    ranges = dict(spec.profile() if profile is None else profile)
    shapes = {name: [list(span.min), list(span.opt), list(span.max)] for name, span in ranges.items()}
    whole = onnx.load(model).SerializeToString()
    engine.write_bytes(pack(MAGIC[flavor], whole, {"profile": shapes, "work": work}))
    if with_manifest:
        manifest.write(
            EngineBuild(
                engine=engine,
                flavor=flavor,
                flavor_version="emulated",
                gpu=_GPU,
                inputs=tuple(NetworkTensor(name=t.name, dtype=t.dtype, shape=t.shape) for t in spec.inputs),
                outputs=tuple(NetworkTensor(name=t.name, dtype=t.dtype, shape=t.shape) for t in spec.outputs),
                profile=ranges,
                options=BuildOptions(flavor=flavor),
                engine_bytes=engine.stat().st_size,
                build_s=0.0,
                layers=None,
                summary=None,
                notes=("made for the emulated GPU",),
            ),
            onnx_digest=file_digest(model),
            precision="emulated",
        )
    return engine


def _range(text: str) -> tuple[str, ShapeRange]:
    name, _, sizes = text.partition("=")
    low, usual, high = (tuple(int(size) for size in part.split("x")) for part in sizes.split(":"))
    return name, ShapeRange(min=low, opt=usual, max=high)


def main() -> None:
    """Make one engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--flavor", choices=sorted(MAGIC), default="tensorrt")
    parser.add_argument("--work", default="run")
    parser.add_argument("--shape", type=_range, action="append")
    given = parser.parse_args()
    profile = dict(given.shape) if given.shape else None
    make_plan(given.model, given.engine, flavor=given.flavor, work=given.work, profile=profile)


if __name__ == "__main__":
    main()
