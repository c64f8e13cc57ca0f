"""Runs a command on the emulated GPU.

    python tests/emulated/run.py python -m mmtrt bench model.engine
    MMTRT_EMULATED_TINY=tiny_fusion.onnx python tests/emulated/run.py pytest tests/emulated/inside

The GPU is software: its times measure this machine's processor and mean nothing. Engines for it are made from an ONNX
by `tests/emulated/plans.py`. The command sees a CUDA driver and NVML built from `driver/` and `nvml/`, the installed
cuda-core and cuda-bindings over them, and stand-ins for `tensorrt`, `tensorrt_rtx` and `pycuda` from `stand_ins/`.
Variables of the environment change the device:

    EMULATED_INTEGRATED=1          host and device share memory, as on Jetson
    EMULATED_MEMORY_MIB=64         device memory; EMULATED_PINNED_MIB likewise (1024 each)
    EMULATED_DELAY_US=200          each piece of work waits for up to so long: shows what is not synchronised
    EMULATED_MEMORY_POOLS=0        a device without memory pools
    EMULATED_COMPUTE_CAPABILITY=75 (87)
    EMULATED_CUDA_VERSION=12080    what the driver says of itself (13000)
    EMULATED_INIT_ERROR=803        what cuInit fails with; EMULATED_DEVICES=0 is a driver without a GPU
    EMULATED_ENGINE=none           engines do nothing; spin:200000 keeps the stream busy for so many ns; run runs them
    EMULATED_BUILD_MS=500          how long the stand-in's builder takes (0)
    EMULATED_TENSORRT=11.4.0       the version that the stand-in for TensorRT says it is (10.16.0)
    EMULATED_NVML_SCRIPT=FILE      what NVML says: see nvml/nvml.c
"""

from __future__ import annotations

import os
import sys

from emulation import environment


def main() -> None:
    """Replace this process by the command."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    command = sys.argv[1:]
    if command[0] in {"python", "pytest", "mmtrt"}:
        module = [] if command[0] == "python" else ["-m", command[0]]
        command = [sys.executable, *module, *command[1:]]
    sys.stdout.flush()
    os.execvpe(command[0], command, environment())  # noqa: S606 -- it is for running a command


if __name__ == "__main__":
    main()
