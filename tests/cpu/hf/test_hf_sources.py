"""What a folder of transformers says of its inputs, modalities, ranges, heads and samples."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from mmtrt.export.sources import Source, load_source
from mmtrt.pipeline.sides import is_source, open_subject
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.tensors import Array

Saved = Callable[[str], Path]


def source(folder: Path) -> Source:
    return load_source(f"hf:{folder}")


def drawn(of: Source, count: int) -> list[Mapping[str, Array]]:
    assert of.samples is not None
    return list(itertools.islice(of.samples(), count))


def test_a_dual_encoder_tells_all_that_an_export_needs(saved: Saved) -> None:
    clip = source(saved("clip"))
    assert clip.name == "clip"
    assert [str(tensor) for tensor in clip.inputs] == [
        "input_ids: int64 (batch, text)",
        "pixel_values: float32 (batch, 3, 32, 32)",
        "attention_mask: int64 (batch, text)",
    ]
    assert clip.outputs == ("logits_per_image", "image_embeds", "text_embeds")
    assert clip.modalities == {"text": ("input_ids", "attention_mask"), "image": ("pixel_values",)}
    assert clip.ranges == {"batch": (1, 2, 8), "text": (2, 16, 24)}


def test_samples_lie_within_the_model_and_lack_each_modality_now_and_then(saved: Saved) -> None:
    samples = drawn(source(saved("clip")), 64)
    lengths = [len(sample["input_ids"]) for sample in samples]
    assert (min(lengths), max(lengths)) == (2, 24)
    for sample in samples:
        assert sample["input_ids"].min() >= 0
        assert sample["input_ids"].max() < 64
        kept = int(sample["attention_mask"].sum())
        assert np.array_equal(sample["attention_mask"], np.arange(len(sample["input_ids"])) < kept)
        if kept:
            # As its tokenizer's file says: [CLS] 1, [SEP] 2, [PAD] 0.
            assert (sample["input_ids"][0], sample["input_ids"][kept - 1]) == (1, 2)
            assert not sample["input_ids"][kept:].any()
    assert any(not sample["attention_mask"].any() for sample in samples)
    assert any(0 < sample["attention_mask"].sum() < len(sample["input_ids"]) for sample in samples)
    pictures = [sample["pixel_values"] for sample in samples]
    assert any(not picture.any() for picture in pictures)
    assert all(abs(p.mean()) < 0.1 and abs(p.std() - 1) < 0.1 for p in pictures if p.any())


def test_outputs_are_what_the_model_itself_says(saved: Saved) -> None:
    import torch
    import transformers

    clip = source(saved("clip"))
    model = transformers.CLIPModel.from_pretrained(saved("clip")).eval()
    with torch.inference_mode():
        wanted = model(**{name: torch.from_numpy(array) for name, array in clip.examples.items()})
    got = EagerRunner(clip.module, clip.inputs, clip.outputs).infer(clip.examples)
    for name, array in got.items():
        assert np.allclose(array, wanted[name].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "ranges"),
    [
        (
            "owl-vit",
            {"input_ids": ("batch", "queries", "text"), "pixel_values": ("batch", 3, 32, 32)},
            ("logits", "pred_boxes", "text_embeds", "class_embeds"),
            {"queries": (1, 4, 8), "text": (2, 16, 16)},
        ),
        ("whisper-encoder", {"input_features": ("batch", 8, 40)}, ("last_hidden_state",), {"batch": (1, 2, 8)}),
        # Four placeholders lead the text, as the processor writes it.
        ("blip-2-matching", {"input_ids": ("batch", "text")}, ("logits_per_image",), {"text": (6, 20, 36)}),
        # RoBERTa's kind counts positions from behind the padding.
        ("bridge-tower", {"input_ids": ("batch", "text")}, ("logits",), {"text": (2, 16, 32)}),
        ("clap", {"input_features": ("batch", 1, 251, 16)}, ("logits_per_audio", "audio_embeds", "text_embeds"), {}),
        ("align", {"pixel_values": ("batch", 3, 48, 48)}, ("logits_per_image", "image_embeds", "text_embeds"), {}),
        # These go the general way.
        ("layoutlmv3", {"bbox": ("batch", "text", 4), "pixel_values": ("batch", 3, 32, 32)}, ("logits",), {}),
        ("x-clip", {"pixel_values": ("batch", 4, 3, 32, 32)}, None, {"text": (2, 16, 24)}),
        ("llava", {"input_ids": ("batch", "text")}, ("logits",), {"text": (2, 16, 64)}),
        # Its table of positions has 32 rows, and two tokens go round a text.
        ("clvp", {"input_features": ("batch", 8, 256)}, None, {"text": (2, 16, 30)}),
        ("tvp", {"pixel_values": ("batch", 4, 3, 64, 64)}, ("logits",), {"batch": (1, 1, 1)}),
    ],
)
def test_kinds(
    saved: Saved,
    name: str,
    inputs: dict[str, tuple[int | str, ...]],
    outputs: tuple[str, ...] | None,
    ranges: dict[str, tuple[int, int, int]],
) -> None:
    made = source(saved(name))
    shapes = {tensor.name: tensor.shape for tensor in made.inputs}
    assert {key: shapes[key] for key in inputs} == inputs
    assert outputs in {made.outputs, None}
    assert {key: made.ranges[key] for key in ranges} == ranges


def test_boxes_lie_on_a_page(saved: Saved) -> None:
    for sample in drawn(source(saved("layoutlmv3")), 8):
        boxes = sample["bbox"]
        assert boxes.min() >= 0
        assert boxes.max() <= 1000
        assert (boxes[:, 2:] >= boxes[:, :2]).all()


def test_a_text_needs_no_placeholders_of_its_image(saved: Saved) -> None:
    """LLaVA wants 16 of them before a text, one for each patch; none stands in a text by chance."""
    import torch
    import transformers

    llava = source(saved("llava"))
    assert all((sample["input_ids"] != 5).all() for sample in drawn(llava, 16))
    model = transformers.LlavaForConditionalGeneration.from_pretrained(saved("llava")).eval()
    given = {name: torch.from_numpy(array) for name, array in llava.examples.items()}
    given["input_ids"] = torch.cat([torch.full((2, 16), 5), given["input_ids"]], dim=1)
    given["attention_mask"] = torch.cat([torch.ones(2, 16, dtype=torch.long), given["attention_mask"]], dim=1)
    with torch.inference_mode():
        wanted = model(**given).logits.numpy()
    got = EagerRunner(llava.module, llava.inputs, llava.outputs).infer(llava.examples)
    assert np.allclose(got["logits"], wanted, atol=1e-5)


def test_an_event_without_text_keeps_its_ends_where_the_model_counts_them(saved: Saved) -> None:
    """VisualBERT looks up the token before the last: its position is counted from the mask."""
    model = source(saved("visual-bert"))
    samples = drawn(model, 64)
    assert min(int(sample["attention_mask"].sum()) for sample in samples) == 2
    for sample in samples:
        got = EagerRunner(model.module, model.inputs).infer({name: array[None] for name, array in sample.items()})
        assert all(np.isfinite(array).all() for array in got.values())


def test_the_processor_says_an_image_size_that_the_model_leaves_open(copied: Saved) -> None:
    folder = copied("align")
    told = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    assert source(folder).examples["pixel_values"].shape == (2, 3, 64, 64)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": told}))
    assert source(folder).examples["pixel_values"].shape == (2, 3, 48, 48)


def test_the_digest_follows_the_configuration_too(copied: Saved) -> None:
    folder = copied("clip")
    first, again = source(folder).digest, source(folder).digest
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["vision_config"]["layer_norm_eps"] = 1e-3
    path.write_text(json.dumps(config))
    assert first == again != source(folder).digest


def test_what_shapes_the_samples_is_in_the_digest_and_where_it_lies_is_not(saved: Saved, copied: Saved) -> None:
    folder = copied("clip")
    digests = [source(saved("clip")).digest]
    assert source(folder).digest == digests[0]
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"sampling_rate": 8000}}))
    digests.append(source(folder).digest)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    told["model"]["vocab"] |= {"[CLS]": 9, "w9": 1}
    path.write_text(json.dumps(told))
    digests.append(source(folder).digest)
    assert len(set(digests)) == 3


def test_a_folder_stands_on_a_side_whatever_its_name(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(saved("clip"), tmp_path / "clip.onnx")
    for text in ("hf:./clip.onnx", f"hf:{saved('clip')}"):
        assert is_source(text)
        assert open_subject(text).spec.modalities["image"] == ("pixel_values",)
    assert is_source("zoo:a.engine")
