"""Calibration and parity sets: where samples come from, and what is checked before one is used.

A sample is a dict from input name to an array without the batch axis (a leading axis of 1 is accepted where
the model has one). All modalities of one event are in one sample, so pairs are never shuffled apart. Keys
that start with `label.` are labels, those that start with `output.` are a golden sample's reference outputs.
"""

from mmtrt.samples.batching import Batch, batches, largest_batch, shapes_profile
from mmtrt.samples.checks import checked
from mmtrt.samples.core import FEW_SAMPLES, LABEL, OUTPUT, Sample, SampleSet, parted, split_label, with_prefix
from mmtrt.samples.npz import check_npz, read_npz
from mmtrt.samples.opening import import_object, open_set
from mmtrt.samples.writing import write_npz, write_sample, write_samples

__all__ = [
    "FEW_SAMPLES",
    "LABEL",
    "OUTPUT",
    "Batch",
    "Sample",
    "SampleSet",
    "batches",
    "check_npz",
    "checked",
    "import_object",
    "largest_batch",
    "open_set",
    "parted",
    "read_npz",
    "shapes_profile",
    "split_label",
    "with_prefix",
    "write_npz",
    "write_sample",
    "write_samples",
]
