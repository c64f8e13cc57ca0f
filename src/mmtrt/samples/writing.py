"""Write a set as a folder of one `.npz` a sample."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmtrt.artifacts import json_text, whole_directory
from mmtrt.samples.core import Sample

__all__ = ["write_npz", "write_sample", "write_samples"]


def write_samples(folder: Path, samples: Iterable[Sample], *, about: Mapping[str, Any]) -> int:
    """Write a folder of one `.npz` a sample, whole or not at all, and `set.json` beside; return the count."""
    count = 0
    with whole_directory(folder) as part:
        for count, sample in enumerate(samples, start=1):
            write_sample(part / f"{count - 1:05d}.npz", sample)
        (part / "set.json").write_text(json_text({**about, "count": count}) + "\n", encoding="utf-8")
    return count


def write_sample(path: Path, sample: Sample) -> None:
    """Write one `.npz`; equal samples give equal bytes."""
    with path.open("wb") as stream:
        write_npz(stream, sample)


def write_npz(stream: Any, sample: Sample) -> None:
    """Write a sample's arrays to an open file, each under its name."""
    # numpy.savez stamps the time of day into the archive; equal samples must give equal bytes.
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sample):
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(info, "w") as entry:
                np.lib.format.write_array(entry, np.asarray(sample[name], order="C"), allow_pickle=False)
