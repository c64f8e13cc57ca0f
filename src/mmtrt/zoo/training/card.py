"""The files that a finished run leaves: the checkpoint, and the card that says what it is."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import nn

from mmtrt.artifacts import place, whole_file, write_json
from mmtrt.errors import InputError
from mmtrt.machine import machine
from mmtrt.zoo.checkpoints import weights_package
from mmtrt.zoo.training.lesson import Lesson

SCHEMA: Final = "mmtrt.zoo-card/2"


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively: there training is about three times as fast."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def trained_on() -> dict[str, Any]:
    """Describe what a run ran on."""
    return {
        **machine(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_checkpoint(
    model: nn.Module, path: Path, metadata: Mapping[str, str], dtype: torch.dtype = torch.float32
) -> str:
    """Write the weights as safetensors, sorted and contiguous; returns the SHA-256 of the weights.

    Floats are stored as `dtype`, and the model is left with what is stored, so that this is what is scored. The digest
    is over the tensors alone, as the model holds them; it is in the file's metadata too, and can be worked out again.
    """
    given = sorted(model.state_dict().items())
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in given}
    model.load_state_dict(state)
    digest = weights_digest(model.state_dict())
    with whole_file(path) as part:
        part.write_bytes(save(state, metadata=dict(metadata) | {"weights_sha256": digest}))
    return digest


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, sorted by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def run_name(blind: str, seed: int) -> str:
    """Name the folder of a run: "seeing-seed0", "blind-image-seed0"."""
    return f"{f'blind-{blind}' if blind else 'seeing'}-seed{seed}"


def install(lesson: Lesson[Any], chosen: Path, package: Path | None = None, notes: Sequence[str] = ()) -> list[Path]:
    """Put a finished run's checkpoint into `mmtrt-zoo`, and the card beside; returns the paths written.

    Blind runs beside `chosen` go into the card; InputError if one that the lesson names is missing, or the package is.
    `notes` is what a reader must know of the run that its figures don't tell.
    """
    blind = {one: result for one in lesson.modalities if (result := _blind_run(lesson, chosen.parent, one))}
    document = {
        "schema": SCHEMA,
        "what": lesson.what,
        "metric": lesson.metric,
        **_read_result(chosen),
        "trained_blind": {one: {k: r[k] for k in ("training", "test")} for one, r in blind.items()},
        "data": lesson.data(),
        "notes": list(notes),
    }
    into = package or weights_package()
    checkpoint, cards = into / "checkpoints" / f"{lesson.name}.safetensors", into / "cards"
    place(chosen / "model.safetensors", checkpoint)
    write_json(cards / f"{lesson.name}.json", document)
    with whole_file(cards / f"{lesson.name}.md") as part:
        part.write_text(markdown(json.loads((cards / f"{lesson.name}.json").read_text("utf-8"))), encoding="utf-8")
    return [checkpoint, cards / f"{lesson.name}.json", cards / f"{lesson.name}.md"]


def _blind_run(lesson: Lesson[Any], runs: Path, blind: str) -> dict[str, Any] | None:
    found = sorted(p.parent for p in runs.glob(f"blind-{blind}-seed*/result.json"))
    if not found and blind in lesson.blind_steps:
        raise InputError(
            f"no finished run of {lesson.name} blind to {blind} in {runs}",
            fix=f"Run it first: python -m mmtrt.zoo.train {lesson.name} --blind {blind} (same --out)",
        )
    return _read_result(found[0]) if found else None


def _read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def markdown(card: Mapping[str, Any]) -> str:
    """Write the card for people; it says nothing that the JSON does not hold."""
    return "\n".join((*_head(card), *_scores(card), *_without_looking(card), *_data(card), *_training(card))) + "\n"


def _head(card: Mapping[str, Any]) -> list[str]:
    model = card["model"]
    parameters, macs = model["parameters"], model["macs"]
    total = sum(macs.values())
    weights = parameters["conv_linear_weights"] / parameters["all"]
    shares = ", ".join(f"{name} {value / total:.1%}" for name, value in macs.items())
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in model["macs_at"].items())
    return [
        f"# {card['name']}",
        "",
        "Written by `python -m mmtrt.zoo.train`; do not edit.",
        "",
        card["what"],
        "",
        f"- parameters: {parameters['all']:,} (weights of convolutions and Linear layers: {weights:.1%})",
        f"- multiply-accumulates at {shapes}: {total / 1e6:.1f} M ({shares})",
        f"- SHA-256 of the weights: `{card['checkpoint_sha256']}`",
        "",
    ]


def _scores(card: Mapping[str, Any]) -> list[str]:
    """A row per metric, a column per modality that is blinded."""
    blinded = card["test_blinded"]
    columns = ["", "all there", *(f"without {one}" for one in blinded)]
    rows = (
        [name, *(_figure(name, scores.get(name)) for scores in (card["test"], *blinded.values()))]
        for name in card["test"]
    )
    return [
        "## On the test split",
        "",
        f"{card['test_events']:,} events, with all modalities and with each missing; what counts is {card['metric']}.",
        "",
        *_table(columns, rows),
        "",
    ]


def _without_looking(card: Mapping[str, Any]) -> list[str]:
    metric = card["metric"]
    rows = [
        *([name, _figure(metric, value)] for name, value in card["chance"].items()),
        *([f"trained without {one}", _figure(metric, r["test"][metric])] for one, r in card["trained_blind"].items()),
    ]
    return ["## Without looking", "", *_table(["", metric], rows), ""]


def _figure(name: str, value: float | None) -> str:
    """A share in percent; a metric with a unit in brackets as it is."""
    if value is None:
        return ""
    return f"{value:.3g}" if name.endswith("]") else f"{value:.2%}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows)]


def _data(card: Mapping[str, Any]) -> list[str]:
    lines = (f"- {name}: {_plain(value)}" for name, value in card["data"].items())
    return ["## Data", "", "Generated by `mmtrt.zoo`.", "", *lines, ""]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def _training(card: Mapping[str, Any]) -> list[str]:
    metric = card["metric"]
    phases = [
        *((phase["what"], phase) for phase in card["before"]),
        (f"the model: {metric}", card["training"]),
        *((f"without {one}: {metric}", result["training"]) for one, result in card["trained_blind"].items()),
    ]
    rows = (
        [
            what,
            str(phase["schedule"]["seed"]),
            f"{phase['schedule']['steps']:,}",
            f"{phase['schedule']['size']['scenes']:,}",
            f"{phase['seconds'] / 60:.1f}",
            _figure(metric if phase is card["training"] else "", phase["validation_score"]),
        ]
        for what, phase in phases
    )
    on = card["machine"]
    products = ", products in bfloat16" if card["training"]["schedule"]["bfloat16"] else ""
    return [
        "## Training",
        "",
        *([card["start"], ""] if card["start"] else []),
        *_table(["", "seed", "steps", "scenes a step", "minutes", "on the validation split"], rows),
        "",
        f"On {on['cpu']}, {on['cores']} cores, torch {on['torch']}, Python {on['python']}{products}.",
        *_changes(card["training"]["history"]),
        *card["notes"],
        f"The weights are those that did best on the validation split (step {card['training']['best_step']:,}).",
    ]


def _changes(history: list[dict[str, Any]]) -> list[str]:
    """Say where a run was made longer, or its data changed, while under way."""
    lines = []
    for before, after in pairwise(history):
        if before["steps"] != after["steps"]:
            lines.append(
                f"From step {after['from']:,} on the schedule had {after['steps']:,} steps, before {before['steps']:,}."
            )
        if before["data"] != after["data"]:
            lines.append(f"From step {after['from']:,} on the data came from another version of the generator.")
    return lines
