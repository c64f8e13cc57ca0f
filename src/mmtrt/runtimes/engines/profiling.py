"""How long each layer of an engine takes, told by TensorRT itself."""

from __future__ import annotations

import numpy as np

from mmtrt.runtimes.engines.loaded import LoadedEngine
from mmtrt.runtimes.given import Given, look
from mmtrt.tensors import Feeds

__all__ = ["profile_layers"]


def profile_layers(loaded: LoadedEngine, feeds: Feeds) -> tuple[tuple[str, float], ...]:
    """Run once in a lane of its own; return `(layer, ms)` of each layer."""
    given = Given()
    look(given, feeds, None)
    shapes = loaded.checked(given)
    with loaded.own_lane() as lane:
        layout = lane.layout(shapes, {})
        for name, view in layout.fed.items():
            np.copyto(view, given.host[name])
        with lane.context.profiling() as told:
            lane.enqueue(layout, lane.context)
            lane.cuda.sync(lane.stream)
    return tuple(told)
