"""Precision by the builder's flags, where a release still has them, and what they are for most: boards' DLA cores.

A DLA takes FP16 and INT8, one fixed shape, and up to TensorRT 10 no Q/DQ. Only FP16 is built for it here: INT8 would
need a range for each tensor of the unquantised model, which TensorRT 11 has no call for any more.
"""

from __future__ import annotations

from typing import Any

from mmtrt.engine.options import BuildOptions
from mmtrt.errors import BuildError, MachineError, UsageError
from mmtrt.runtimes.tensorrt_api import LABELS, FlavourName
from mmtrt.tensors import Profile

__all__ = ["allow_precisions", "place_on_dla", "weakly_typed"]


def weakly_typed(api: Any, flavour: FlavourName) -> bool:
    """Return whether a network can be typed weakly, its precisions chosen by the builder among those allowed."""
    return flavour == "tensorrt" and hasattr(api.BuilderFlag, "INT8")


def allow_precisions(api: Any, config: Any, options: BuildOptions) -> None:
    """Allow a weakly typed build FP16, and INT8 for its Q/DQ; a DLA gets FP16 alone."""
    flags = api.BuilderFlag
    if not hasattr(flags, "INT8"):  # and there is no weak typing
        return
    config.set_flag(flags.FP16)
    if options.dla_core is None:
        config.set_flag(flags.INT8)


def place_on_dla(
    api: Any,
    builder: Any,
    network: Any,
    config: Any,
    flavour: FlavourName,
    options: BuildOptions,
    profile: Profile,
) -> list[str]:
    """Build for the DLA core that the options name; return what a reader must know, nothing where none is named.

    MachineError where this board or this TensorRT has no such core, UsageError for a range of shapes, BuildError for a
    quantised model on a release whose DLA takes none.
    """
    core = options.dla_core
    if core is None:
        return []
    if flavour == "tensorrt-rtx":
        # It accepts the setting, and does nothing.
        raise MachineError(
            f"dla_core = {core}, and {LABELS[flavour]} has no DLA", fix=f"Use the board's own TensorRT. {_OUT}"
        )
    cores = builder.num_DLA_cores
    if not core < cores:
        raise MachineError(
            f"dla_core = {core}, and this TensorRT finds {cores} DLA cores",
            fix=f"Orin NX and AGX Orin have them; TensorRT has up to 10.7, and again from 11.4.1 on. {_OUT}",
        )
    _check_fixed(profile)
    if hasattr(api.BuilderFlag, "INT8"):
        _check_unquantised(api, network)
    config.default_device_type = api.DeviceType.DLA
    config.DLA_core = core
    if not options.gpu_fallback:
        return []
    config.set_flag(api.BuilderFlag.GPU_FALLBACK)
    return [f"built for DLA core {core}; the GPU takes the layers that it does not, which `mmtrt inspect` lists"]


_OUT = "Leave dla_core out to build for the GPU."


def _check_fixed(profile: Profile) -> None:
    for name, span in profile.items():
        if not span.min == span.opt == span.max:
            raise UsageError(
                f"a DLA takes one shape, and input {name!r} has a range: {list(span.min)} to {list(span.max)}",
                fix=f"Give it the same smallest, usual and largest shape. {_OUT}",
            )


def _check_unquantised(api: Any, network: Any) -> None:
    quantising = (api.LayerType.QUANTIZE, api.LayerType.DEQUANTIZE)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type in quantising:
            raise BuildError(
                f"the DLA of this TensorRT takes no Q/DQ, and the model has some, first {layer.name!r}",
                fix=f"Build the model in fp16 for this target. {_OUT}",
            )
