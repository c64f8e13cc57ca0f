"""The files that a finished run leaves: the checkpoint, and the card that says what it is."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import nn

from mmtrt.artifacts import place, whole_file, write_json
from mmtrt.errors import InputError
from mmtrt.machine import machine
from mmtrt.zoo import events, questions, scenes, words

PACKAGE: Final = Path(__file__).parent
SCHEMA: Final = "mmtrt.zoo-card/1"


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


def data_description() -> dict[str, Any]:
    """Describe the generated data."""
    return {
        "image": f"{scenes.MIN_THINGS} to {scenes.MAX_THINGS} things, each at least "
        f"{scenes.MIN_VISIBLE:.0%} visible, on a shaded grey ground with noise",
        "preprocessing": scenes.PREPROCESSING,
        "sizes": scenes.SIZES,
        "colours": scenes.COLOURS,
        "shapes": scenes.SHAPES,
        "kinds": questions.KINDS,
        "question_words": len(words.QUESTION_WORDS),
        "answers": words.ANSWERS,
        "phrase_words": len(words.PHRASE_WORDS),
        "text_tokens": [words.TEXT_MIN, words.TEXT_MAX],
        "splits": events.SPLITS,
        "seed": events.DATA_SEED,
        "unmatched": f"1 in {events.UNMATCHED_EVERY} pairs of validation, calibration and test",
    }


def write_checkpoint(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> str:
    """Write the weights as safetensors, sorted and contiguous; returns the SHA-256 of the weights.

    The digest is over the tensors alone (it is in the file's metadata too), so it can be worked out again.
    """
    state = {k: v.contiguous() for k, v in sorted(model.state_dict().items())}
    digest = weights_digest(state)
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


def install(name: str, runs: Path, chosen: Path, package: Path = PACKAGE, notes: Sequence[str] = ()) -> list[Path]:
    """Put a finished run's checkpoint into the package, and the card beside; returns the paths written.

    `runs` holds all runs of the model; the blind ones go into the card, InputError if one is missing. `notes` is
    what a reader must know of the run that its figures don't tell.
    """
    main = _read_result(chosen)
    blind = {kind: _read_result(_blind_run(runs, kind)) for kind in ("image", "question")}
    checkpoint = package / "checkpoints" / f"{name}.safetensors"
    place(chosen / "model.safetensors", checkpoint)
    document = {"schema": SCHEMA} | main | {"trained_blind": blind, "data": data_description(), "notes": list(notes)}
    cards = package / "cards"
    write_json(cards / f"{name}.json", document)
    with whole_file(cards / f"{name}.md") as part:
        part.write_text(markdown(document), encoding="utf-8")
    return [checkpoint, cards / f"{name}.json", cards / f"{name}.md"]


def _blind_run(runs: Path, blind: str) -> Path:
    found = sorted(p.parent for p in runs.glob(f"{blind}-seed*/result.json"))
    if not found:
        raise InputError(
            f"no finished run blind to the {blind} in {runs}",
            fix=f"Run it first: python -m mmtrt.zoo.train {runs.name} --blind {blind} (same --out)",
        )
    return found[0]


def _read_result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def markdown(card: Mapping[str, Any]) -> str:
    """Write the card for people; it says nothing that the JSON does not hold."""
    return "\n".join((*_head(card), *_scores(card), *_blind(card), *_data(card), *_training(card))) + "\n"


def _head(card: Mapping[str, Any]) -> list[str]:
    model = card["model"]
    parameters, macs = model["parameters"], model["macs"]
    total = sum(macs.values())
    weights = parameters["conv_linear_weights"] / parameters["all"]
    shares = ", ".join(f"{name} {value / total:.1%}" for name, value in macs.items())
    return [
        f"# {card['name']}",
        "",
        "Written by `python -m mmtrt.zoo.train`; do not edit.",
        "",
        f"- parameters: {parameters['all']:,} (weights of convolutions and Linear layers: {weights:.1%})",
        f"- multiply-accumulates at {model['macs_at_text']} tokens: {total / 1e6:.1f} M ({shares})",
        f"- SHA-256 of the weights: `{card['checkpoint_sha256']}`",
        "",
    ]


def _scores(card: Mapping[str, Any]) -> list[str]:
    test = card["test"]
    rows = [
        ("answer accuracy", test["answer_accuracy"]),
        *((f"answer accuracy, {kind}", value) for kind, value in test["answer_accuracy_by_kind"].items()),
        ("match accuracy", test["match_accuracy"]),
        ("match F1 (matched pairs)", test["match_f1"]),
        ("match F1 (unmatched pairs)", test["unmatched_f1"]),
        ("generated phrase exactly right", test["generate_exact"]),
    ]
    return [
        "## On the test split",
        "",
        f"{test['pairs']:,} pairs; answers and phrases count on the {test['matched']:,} matched ones.",
        "",
        *("| | |", "|---|---|"),
        *(f"| {name} | {value:.2%} |" for name, value in rows),
        "",
    ]


def _blind(card: Mapping[str, Any]) -> list[str]:
    rows = [
        ("commonest answer", card["majority"]["overall"]),
        ("commonest answer of each kind of question", card["majority"]["by_kind"]),
        ("this model, picture zeroed", card["test_blinded"]["image"]["answer_accuracy"]),
        ("this model, question masked", card["test_blinded"]["question"]["answer_accuracy"]),
        ("trained without pictures", card["trained_blind"]["image"]["test"]["answer_accuracy"]),
        ("trained without questions", card["trained_blind"]["question"]["test"]["answer_accuracy"]),
    ]
    return [
        "## Without one of the modalities",
        "",
        *("| | answer accuracy |", "|---|---|"),
        *(f"| {name} | {value:.2%} |" for name, value in rows),
        "",
    ]


def _data(card: Mapping[str, Any]) -> list[str]:
    data = card["data"]
    shortest, longest = data["text_tokens"]
    answers = len(data["answers"])
    return [
        "## Data",
        "",
        f"Generated by `mmtrt.zoo` from seed {data['seed']} (training: from the training seed).",
        "",
        f"- pictures: 64x64 RGB; {data['image']}",
        f"- things: {', '.join(data['sizes'])}; {', '.join(data['colours'])}; {', '.join(data['shapes'])}",
        f"- questions: {', '.join(data['kinds'])}; half of the relations are between two things, half to the middle",
        f"- {shortest} to {longest} tokens of {data['question_words']}; {answers} answers, drawn evenly",
        f"- unmatched pairs (the question speaks of a thing that is not there): {data['unmatched']}",
        "",
    ]


def _training(card: Mapping[str, Any]) -> list[str]:
    blind = card["trained_blind"]
    phases = (
        ("image encoder alone: things read", card["pictures"]),
        ("the model: answer accuracy", card["training"]),
        ("without pictures: answer accuracy", blind["image"]["training"]),
        ("without questions: answer accuracy", blind["question"]["training"]),
    )
    rows = [
        f"| {name} | {phase['schedule']['seed']} | {phase['schedule']['steps']:,} | {phase['scenes_seen']:,} "
        f"| {phase['questions_seen']:,} | {phase['seconds'] / 60:.1f} | {phase['validation_score']:.2%} |"
        for name, phase in phases
    ]
    on = card["machine"]
    products = ", products in bfloat16" if card["training"]["schedule"]["bfloat16"] else ""
    return [
        "## Training",
        "",
        "The image encoder first learns alone to name what is in each cell of a picture; then all learns together:",
        "at first from all kinds of questions evenly, later more often from the hard ones.",
        "",
        "| | seed | steps | pictures | questions | minutes | on the validation split |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"On {on['cpu']}, {on['cores']} cores, torch {on['torch']}, Python {on['python']}{products}.",
        *_changes(card["training"]["history"]),
        *card.get("notes", ()),
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
            lines.append(f"From step {after['from']:,} on the questions came from another version of the generator.")
    return lines
