"""A recipe's models as a Triton server is given them: configuration, warm-up, labels, load, weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmtrt.artifacts import json_text
from mmtrt.engine import manifest as manifests
from mmtrt.errors import ModelError
from mmtrt.export.parts import PipelineSource
from mmtrt.onnx_files import data_files, graph_spec, model_digest, open_model
from mmtrt.parts.wiring import Wiring
from mmtrt.pipeline.golden import pick_golden, sizes_of
from mmtrt.pipeline.sides import engine_spec
from mmtrt.pipeline.triton_stages import Parts, Ready
from mmtrt.recipe import Recipe
from mmtrt.results import plain
from mmtrt.samples import SampleSet, checked, open_set
from mmtrt.tensors import Array, ModelSpec
from mmtrt.triton.config import FILENAMES, PLATFORMS, Backend, Served, batch_sizes, model_config
from mmtrt.triton.ensemble import ensemble_batching, ensemble_config, ensemble_spec
from mmtrt.triton.load import load_data
from mmtrt.triton.pbtxt import text
from mmtrt.triton.repository import Model
from mmtrt.triton.shapes import Batching, agreed, batching, check_ranges, data_type, dims, row_of
from mmtrt.triton.warm_up import requests, safe_name, warm_ups

__all__ = ["check_part_names", "one_model", "part_models", "part_name"]


def part_name(recipe: Recipe, part: str) -> str:
    """Return what a part is called in the repository."""
    return f"{recipe.name}-{part}"


def check_part_names(source: PipelineSource) -> None:
    """Raise ModelError at a part whose name can't be that of a folder."""
    for part in source.parts:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", part):
            raise ModelError(
                f"the part {part!r} of {source.reference} can't be the name of a model",
                fix="Call it by letters, digits, - and _.",
            )


def one_model(recipe: Recipe, backend: Backend, ready: Ready) -> Model:
    """Return the model of a recipe in one part."""
    return _model(recipe, recipe.name, backend, ready)


def part_models(recipe: Recipe, backend: Backend, parts: Parts) -> list[Model]:
    """Return the parts, and behind them the ensemble that runs them; without it where a part is run again and again."""
    wiring = parts.exported.wiring
    models = []
    for part, ready in parts.parts.items():
        models.append(_model(recipe, part_name(recipe, part), backend, ready))
    if wiring.step is not None:
        # What a client that runs the parts itself has to know.
        last = models[-1]
        models[-1] = replace(last, files={**last.files, "pipeline.json": _pipeline(recipe, wiring)})
    elif recipe.triton.ensemble:
        specs = {part: _spec(ready, part) for part, ready in parts.parts.items()}
        models.append(_ensemble(recipe, wiring.with_specs(specs), open_set(str(parts.exported.golden))))
    return models


def _model(recipe: Recipe, name: str, backend: Backend, ready: Ready) -> Model:
    spec = _spec(ready, name)
    batch = batching(spec)
    labels = _fitting(spec, batch, ready.labels)
    named = {output: f"labels-{place}-{safe_name(output)}.txt" for place, output in enumerate(labels)}
    told = _requests(ready.golden, spec, batch, max(recipe.triton.warm_up, recipe.triton.load))
    warm = warm_ups(told[: recipe.triton.warm_up], spec, batch_sizes(recipe.triton, batch))
    served = Served(name=name, backend=backend, spec=spec, settings=recipe.triton, labels=named, warm_up=warm)
    files: dict[str, bytes | Path] = {named[output]: _lines(output, names) for output, names in labels.items()}
    for one in warm:
        files |= {f"warmup/{file}": content for file, content in one.contents().items()}
    files["load/input_data.json"] = _json(load_data(told[: recipe.triton.load]))
    files |= {f"{recipe.triton.version}/{file}": path for file, path in _weights(ready, backend)}
    return Model(
        name=name,
        version=recipe.triton.version,
        config=text(model_config(served)),
        interface=_interface(PLATFORMS[backend], spec, batch),
        files=files,
        about=_about(recipe, ready),
    )


def _ensemble(recipe: Recipe, wiring: Wiring, golden: SampleSet) -> Model:
    spec, batch = ensemble_spec(wiring), ensemble_batching(wiring)
    names = {part: part_name(recipe, part) for part in wiring.parts}
    told = recipe.triton
    config = ensemble_config(recipe.name, wiring, names, version=told.version, keep=told.keep)
    return Model(
        name=recipe.name,
        version=told.version,
        config=text(config),
        interface=_interface("ensemble", spec, batch),
        files={
            "load/input_data.json": _json(load_data(_requests(golden, spec, batch, told.load))),
            # An ensemble's version holds no model, and a folder of nothing gets lost on the way to some stores.
            f"{told.version}/pipeline.json": _pipeline(recipe, wiring),
        },
        about={"recipe": recipe.digest, "parts": names},
    )


def _pipeline(recipe: Recipe, wiring: Wiring) -> bytes:
    names = {part: part_name(recipe, part) for part in wiring.parts}
    return _json({"schema": "mmtrt.triton-pipeline/1", "models": names, "wiring": wiring.to_json()})


# ------------------------------------------------------------------------------------------------------ a model


def _spec(ready: Ready, name: str) -> ModelSpec:
    """Return what is served, held against the graph of the ONNX and, where it is served, the engine's manifest."""
    spec = agreed(ready.made.spec, graph_spec(open_model(ready.made.onnx)), f"the ONNX of {name}")
    if ready.engine is None:
        return spec
    built = engine_spec(manifests.read(ready.engine))
    check_ranges(spec, built, f"the engine of {name}")
    return agreed(spec, built, f"the engine of {name}")


def _requests(golden: SampleSet, spec: ModelSpec, batch: Batching, count: int) -> list[dict[str, Array]]:
    """Return the inputs of single requests: golden samples of the smallest, the usual and the largest sizes first."""
    samples = list(checked(golden, spec))
    sizes = [sizes_of({t.name: sample[t.name].shape for t in spec.inputs}, spec) for sample in samples]
    return requests([samples[row] for row in pick_golden(sizes, spec, count)], spec, batch, count)


def _weights(ready: Ready, backend: Backend) -> Iterator[tuple[str, Path]]:
    """Yield the version's files: the engine, or the ONNX and its external data under the names that it knows."""
    if ready.engine is not None:
        yield FILENAMES[backend], ready.engine
        return
    onnx = ready.made.onnx
    yield FILENAMES[backend], onnx
    for name in sorted(data_files(open_model(onnx), onnx) - {onnx.name}):
        yield name, onnx.parent / name


def _interface(platform: str, spec: ModelSpec, batch: Batching) -> dict[str, Any]:
    def told(tensors: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": t.name, "data_type": data_type(t), "dims": list(dims(t, batch))} for t in tensors]

    return {
        "platform": platform,
        "max_batch_size": batch.largest,
        "inputs": told(spec.inputs),
        "outputs": told(spec.outputs),
    }


def _about(recipe: Recipe, ready: Ready) -> dict[str, Any]:
    engine: dict[str, Any] | None = None
    if ready.engine is not None:
        manifest = manifests.read(ready.engine)
        engine = {
            "sha256": manifest.engine_digest,
            "flavor": manifest.flavor,
            "flavor_version": manifest.flavor_version,
            "gpu": manifest.gpu,
        }
    return {
        "precision": ready.made.precision,
        "onnx": model_digest(ready.made.onnx),
        "engine": plain(engine),
        "recipe": recipe.digest,
        "parity": {check.candidate.what: check.verdict for check in ready.checks},
    }


def _fitting(spec: ModelSpec, batch: Batching, labels: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the labels of outputs that have one class an element; ModelError where there are more or fewer."""
    rows = {tensor.name: row_of(tensor, batch) for tensor in spec.outputs}
    found = {output: names for output, names in labels.items() if len(rows.get(output, ())) == 1}
    for output, names in found.items():
        if rows[output] != (len(names),):
            raise ModelError(
                f"{output!r} has {rows[output][0]} classes, and the source names {len(names)}",
                fix="Let the source name each class once, in the output's order.",
            )
    return found


def _lines(output: str, names: Sequence[str]) -> bytes:
    """Return a labels file: a class a line."""
    for name in names:
        if "\n" in name or "\r" in name:
            raise ModelError(f"a label of {output!r} holds a line break: {name!r}", fix="Triton reads a label a line.")
    return "".join(f"{name}\n" for name in names).encode("utf-8")


def _json(data: Any) -> bytes:
    return (json_text(data) + "\n").encode("utf-8")
