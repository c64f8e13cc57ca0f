"""BLIP for question answering in four parts says what transformers' `generate` says, token by token."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import onnx
import torch

from mmtrt.artifacts import StageCache
from mmtrt.export.parts import PipelineSource, open_source
from mmtrt.parity.phrases import phrase_of
from mmtrt.parts import Chain
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.parts_export import PartsExport, export_parts
from mmtrt.pipeline.parts_flow import Flow
from mmtrt.pipeline.sides import open_subject
from mmtrt.precision.convert import convert
from mmtrt.precision.options import PrecisionOptions
from mmtrt.runtimes import Runner
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import Sample, SampleSet, open_set

EVENTS = 36
CANDIDATES = 80
LEAD = 0.02
Phrases = list[tuple[int, ...]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[PartsExport, Context, Any]:
    import blip_parts

    folder = tmp_path_factory.mktemp("blip")
    source = open_source(f"hf:{blip_parts.save(folder / 'blip')}")
    assert isinstance(source, PipelineSource)
    context, model = Context(cache=StageCache(folder / "cache")), blip_parts.load(folder / "blip")
    rows = decided(source, model)
    events = SampleSet(source="decided events", key="decided", read=lambda: rows)
    return export_parts(context, source, opset=18, events=events), context, model


@pytest.fixture(scope="module")
def generated(exported: tuple[PartsExport, Context, Any]) -> Phrases:
    """What `generate` says, an event at a time."""
    made, _, model = exported
    return [_generated(model, event)[0] for event in made.events]


def _generated(model: Any, event: Sample) -> tuple[tuple[int, ...], float]:
    """The phrase, and the smallest lead of its words over the next best, in standard deviations of the logits."""
    feeds = {name: torch.from_numpy(array[None]) for name, array in event.items()}
    told = model.generate(**feeds, output_scores=True, return_dict_in_generate=True)
    phrase = phrase_of(told.sequences[0, 1:].numpy(), model.config.text_config.sep_token_id)
    scores = torch.cat(told.scores)[: len(phrase)]
    best = scores.topk(2, dim=-1).values
    return phrase, float(((best[:, 0] - best[:, 1]) / scores.std(dim=-1)).min())


def decided(source: PipelineSource, model: Any) -> list[Sample]:
    """Events in which PyTorch itself is sure of each word: random weights often say two words all but alike."""
    assert source.samples is not None
    found = [event for event in source.samples(CANDIDATES) if _generated(model, event)[1] > LEAD]
    assert len(found) >= EVENTS
    return found[:EVENTS]


def phrases(made: PartsExport, runners: dict[str, Runner], wiring: Any = None) -> Phrases:
    with Chain(wiring or made.wiring, runners) as chain:
        return [chain.run({n: a[None] for n, a in event.items()}).phrases()[0] for event in made.events]


@pytest.mark.parametrize("changed", [{"num_attention_heads": 4}, {"layer_norm_eps": 0.1}])
def test_parts_of_other_configurations_are_other_parts(
    exported: tuple[PartsExport, Context, Any], tmp_path: Path, changed: dict[str, Any]
) -> None:
    """The weights are the same in name, shape and value, the outputs are not: no cache may take one for the other."""
    source = exported[0].source
    folder = Path(source.reference.removeprefix("hf:"))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    told = json.loads((other / "config.json").read_text())
    told["vision_config"] |= changed
    (other / "config.json").write_text(json.dumps(told))
    found = open_source(f"hf:{other}")
    assert isinstance(found, PipelineSource)
    assert all(found.parts[part].digest != source.parts[part].digest for part in source.parts)
    shutil.copytree(folder, tmp_path / "same")
    same = open_source(f"hf:{tmp_path / 'same'}")
    assert isinstance(same, PipelineSource)
    assert {p: s.digest for p, s in same.parts.items()} == {p: s.digest for p, s in source.parts.items()}


def test_the_digest_is_in_no_graph(exported: tuple[PartsExport, Context, Any]) -> None:
    for part in exported[0].parts.values():
        graph = onnx.load(part.onnx, load_external_data=False).graph
        assert not any(tensor.data_type == onnx.TensorProto.UINT8 for tensor in graph.initializer)
        assert not any("facts" in name for node in graph.node for name in node.input)
        assert not any("facts" in tensor.name for tensor in (*graph.input, *graph.initializer))


def test_samples_say_that_they_are_no_data(exported: tuple[PartsExport, Context, Any]) -> None:
    samples: Any = exported[0].source.samples
    assert samples.on_data is False
    assert len(list(samples(count=3))) == 3


def test_phrases_differ_in_words_and_length(generated: Phrases) -> None:
    """What follows would prove little on one phrase for all."""
    assert len(generated) == EVENTS
    assert len(set(generated)) >= EVENTS // 2
    assert len({len(phrase) for phrase in generated}) >= 5


def test_the_parts_say_what_generate_says(exported: tuple[PartsExport, Context, Any], generated: Phrases) -> None:
    made, _, _ = exported
    assert list(made.parts) == ["vision", "question", "prefill", "decoder"]
    modules: dict[str, Runner] = {n: EagerRunner(p.module, p.inputs, p.outputs) for n, p in made.source.parts.items()}
    assert phrases(made, modules, made.source.wiring) == generated
    assert phrases(made, {name: OrtRunner(part.onnx, "parity") for name, part in made.parts.items()}) == generated


def test_rows_of_a_batch_say_what_generate_says(exported: tuple[PartsExport, Context, Any]) -> None:
    """Rows that have ended wait for the others, as they do in `generate`."""
    import numpy as np

    made, _, model = exported
    rng = np.random.default_rng(5)
    feeds = {
        "pixel_values": rng.standard_normal((8, 3, 32, 32), dtype=np.float32),
        "input_ids": rng.integers(3, 48, (8, 9)),
        "attention_mask": (np.arange(9) < rng.integers(4, 10, 8)[:, None]).astype(np.int64),
    }
    with Chain(made.wiring, {name: OrtRunner(part.onnx, "parity") for name, part in made.parts.items()}) as chain:
        tokens = chain.run(feeds).outputs["tokens"]
    told = model.generate(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    assert tokens.tolist() == told[:, 1:].tolist()


def converted(exported: tuple[PartsExport, Context, Any], precision: str, folder: Path) -> dict[str, Path]:
    """Convert part after part, each calibrated on what the converted ones before it give."""
    made, context, _ = exported
    flow = Flow(context, made.wiring, made.events)
    found: dict[str, Path] = {}
    for part, result in made.parts.items():
        if part == "decoder":
            flow.subjects[part] = open_subject(str(result.onnx))
        found[part] = folder / f"{part}.{precision}.onnx"
        # All layers of the prefill are its last ones.
        coverage = "full" if part == "prefill" else "wide"
        options = PrecisionOptions(precision=precision, coverage=coverage, refine=())
        convert(result.onnx, found[part], options, samples=open_set(str(flow.feeds(part))))
        flow.subjects[part] = open_subject(str(found[part]))
    return found


def agreement(ours: Sequence[object], theirs: Sequence[object]) -> float:
    return sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours)


def test_fp16_says_what_generate_says(
    exported: tuple[PartsExport, Context, Any], generated: Phrases, tmp_path: Path
) -> None:
    files = converted(exported, "fp16", tmp_path)
    told = phrases(exported[0], {name: OrtRunner(path, "parity") for name, path in files.items()})
    assert told == generated


def test_int8_s_agreement_is_measured(
    exported: tuple[PartsExport, Context, Any], generated: Phrases, tmp_path: Path
) -> None:
    files = converted(exported, "int8", tmp_path)
    told = phrases(exported[0], {name: OrtRunner(path, "parity") for name, path in files.items()})
    share = agreement(told, generated)
    sys.stderr.write(f"INT8 says the same in {100 * share:.1f} % of {EVENTS} events\n")
    # Hardly two phrases are alike: by chance one in thirty would be.
    assert share >= 0.6
