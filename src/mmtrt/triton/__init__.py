"""A model repository for NVIDIA Triton: each model's configuration, its warm-up, an ensemble of parts, and the files.

::

    REPOSITORY/NAME/
        config.pbtxt            inputs, outputs, batching, instances, versions
        mmtrt.json              what mmtrt wrote here: digests, and where it came from
        labels-0-OUTPUT.txt     a class a line, where the source names them
        warmup/00000-0-INPUT    raw little-endian bytes of golden samples
        load/input_data.json    golden samples for perf_analyzer --input-data
        VERSION/model.plan      the TensorRT engine, or model.onnx and its data

Nothing here needs Triton, its client or protobuf.
"""

from mmtrt.triton.config import model_config
from mmtrt.triton.ensemble import ensemble_config
from mmtrt.triton.load import load_data
from mmtrt.triton.pbtxt import Message, Word, text
from mmtrt.triton.repository import Model, check_repository, write_repository
from mmtrt.triton.shapes import Batching, agreed, batching, check_ranges
from mmtrt.triton.warm_up import WarmUp, warm_ups

__all__ = [
    "Batching",
    "Message",
    "Model",
    "WarmUp",
    "Word",
    "agreed",
    "batching",
    "check_ranges",
    "check_repository",
    "ensemble_config",
    "load_data",
    "model_config",
    "text",
    "warm_ups",
    "write_repository",
]
