"""The golden samples of a bundle, with PyTorch's outputs, cached."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import mmtrt
from mmtrt.artifacts import read_json
from mmtrt.export.exporter import with_outputs
from mmtrt.export.sources import Source
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult
from mmtrt.pipeline.golden import pick_golden, sizes_of
from mmtrt.pipeline.sources import module_subject
from mmtrt.recipe import Recipe
from mmtrt.results import unplaced
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.samples import Sample, SampleSet, checked, open_set, write_samples

__all__ = ["golden_stage"]

_LOOKED_AT = 512
"""So many samples of the parity set are there to pick from: enough for each shape, and read in seconds."""


def golden_stage(context: Context, recipe: Recipe, exported: ExportResult, source: Source) -> tuple[Path, bool]:
    """Return a folder of golden samples, and whether it was there already.

    They are of the parity set, where the recipe names one, else of those that the export wrote; a note tells where
    there are fewer than the recipe's [bundle] asks for.
    """
    own = recipe.parity.set is None
    pool = open_set(recipe.parity.set or str(exported.golden), count=recipe.parity.count)
    wanted, spec = recipe.bundle.golden, exported.spec
    parts = {
        "reference": module_subject(source).key,
        "samples": pool.content_key(),
        "golden": wanted,
        "spec": spec.to_json(),
        "own": own,
        "torch": torch.__version__,
    }

    def looked_at() -> Iterator[Sample]:
        return checked(itertools.islice(pool, _LOOKED_AT), spec)

    def work(folder: Path) -> None:
        # Read twice, since few are kept of many that may be large.
        sizes = [sizes_of({name: np.shape(array) for name, array in row.items()}, spec) for row in looked_at()]
        indices = set(pick_golden(sizes, spec, wanted))
        picked = (row for index, row in enumerate(looked_at()) if index in indices)
        about = unplaced(read_json(exported.golden / "set.json") if own else _about(source, pool))
        write_samples(folder / "golden", picked if own else with_outputs(source, spec, picked), about=about)

    folder, cached = context.cache.run("golden", parts, work)
    count = len(list((folder / "golden").glob("*.npz")))
    if "golden" in recipe.bundle.model_fields_set and count < wanted:
        context.note(f"{count} golden samples are carried, not {wanted}: there are no more in {pool.source}")
    return folder / "golden", cached


def _about(source: Source, pool: SampleSet) -> dict[str, object]:
    runs = EagerRunner(source.module, source.inputs).runs
    return {
        "source": pool.source,
        "module_digest": source.digest,
        **({"checkpoint": source.checkpoint} if source.checkpoint is not None else {}),
        **({} if pool.on_data else {"on_data": False}),
        "runs": f"{source.reference} in {runs}",
        "mmtrt": mmtrt.__version__,
    }
