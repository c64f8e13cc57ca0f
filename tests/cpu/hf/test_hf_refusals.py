"""What stands in the way of `hf:` is named, with its mend."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch

from mmtrt.errors import InputError, MachineError, MmtrtError, ModelError, UsageError
from mmtrt.export import sources
from mmtrt.export.parts import open_source
from mmtrt.export.sources import load_source

Saved = Callable[[str], Path]


def refusal(reference: str | Path) -> MmtrtError:
    with pytest.raises(MmtrtError) as refused:
        load_source(f"hf:{reference}")
    assert refused.value.fix
    return refused.value


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_name_that_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.safetensors").touch()
    for name, words in [
        ("", "no folder (nothing)"),
        ("./gone", "no folder ./gone"),
        ("a/b/c", "no folder a/b/c"),
        ("empty", "empty holds no config.json"),
        ("model.safetensors", "is a file"),
    ]:
        error = refusal(name)
        assert isinstance(error, InputError)
        assert words in error.message


def test_a_hub_name_where_there_is_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    error = refusal("mmtrt-tests/no-such-model")
    assert "hub can't be reached" in error.message
    assert "hf download mmtrt-tests/no-such-model" in str(error.fix)


@pytest.mark.parametrize(
    ("kind", "message", "fix"),
    [
        ("RepositoryNotFoundError", "no such model", "Check the name (hf:OWNER/NAME)"),
        ("GatedRepoError", "is gated", "Ask for access"),
    ],
)
def test_a_name_that_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, kind: str, message: str, fix: str) -> None:
    """As transformers tells it: the reason beneath an OSError whose words say nothing of it."""
    import huggingface_hub.errors

    from mmtrt.export.hf import loading

    def refuse(*_: Any, **__: Any) -> None:
        response = SimpleNamespace(headers={}, request=None)
        told = getattr(huggingface_hub.errors, kind)("401", response=response)
        raise OSError("is not a valid model identifier") from told

    monkeypatch.setattr(loading, "cached_file", refuse)
    error = refusal("mmtrt-tests/no-such-model")
    assert message in error.message
    assert fix in str(error.fix)


def test_transformers_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda _: None)
    error = refusal(tmp_path)
    assert isinstance(error, MachineError)
    assert "mmtrt[hf]" in str(error.fix)


@pytest.mark.parametrize(
    ("changes", "kind", "message", "fix"),
    [
        ({"model_type": "clipp"}, ModelError, "'clipp'", "'clip'"),
        ({"model_type": None}, ModelError, "no model_type None", "transformers"),
        (
            {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}},
            ModelError,
            "code of its own",
            "factory|module",
        ),
        ({"architectures": ["ClipModel"]}, ModelError, "no class 'ClipModel'", "CLIPModel"),
        ({"architectures": ["AutoModelForCausalLM"]}, ModelError, "no model's class", "CLIPModel"),
        ({"projection_dim": 16}, ModelError, "another shape", "different models"),
        ({"architectures": ["CLIPForImageClassification"]}, ModelError, "lacks", "architectures"),
    ],
)
def test_a_configuration_that_does_not_fit(
    copied: Saved, changes: dict[str, Any], kind: type[MmtrtError], message: str, fix: str
) -> None:
    folder = copied("clip")
    configure(folder, **changes)
    error = refusal(folder)
    assert isinstance(error, kind)
    assert message in error.message
    assert any(words in str(error.fix) for words in fix.split("|"))


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["AutoModelForCausalLM"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
        {"architectures": ["Evil"], "auto_map": {"AutoModel": "evil.Evil"}},
        # transformers makes a model of such a part by itself.
        {"text_config": {"model_type": "clip_text_model", "auto_map": {"AutoModel": "evil.Evil"}}},
    ],
)
def test_code_in_a_folder_is_not_run_nor_asked_about(
    copied: Saved, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    folder = copied("clip")
    marker = folder / "marker"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: ...\n")
    configure(folder, **changes)
    assert "brings code of its own, which mmtrt does not run" in refusal(folder).message
    assert not asked
    assert not marker.exists()


def test_a_map_of_code_that_is_not_needed_does_no_harm(copied: Saved) -> None:
    folder = copied("clip")
    configure(folder, auto_map={"AutoModel": "evil.Evil"})
    assert load_source(f"hf:{folder}").name == "clip"


def test_a_checkpoint_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """The folder is not even looked at."""
    for opens in (load_source, open_source):
        with pytest.raises(UsageError, match="hf: takes its weights from its folder") as refused:
            opens(f"hf:{tmp_path / 'gone'}", tmp_path / "weights.safetensors")
        assert "save_pretrained" in str(refused.value.fix)


def test_no_memory_is_no_size_that_a_model_refuses(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmtrt.export.hf.wrapper import Named

    call = Named.call

    def exhausted(self: Named, inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["input_ids"].shape[1] > 32:
            raise MemoryError
        return call(self, inputs)

    monkeypatch.setattr(Named, "call", exhausted)
    with pytest.raises(MemoryError):
        load_source(f"hf:{saved('llava')}")


def test_a_configuration_that_is_no_json(copied: Saved) -> None:
    folder = copied("clip")
    (folder / "config.json").write_text("{")
    assert "config.json is no JSON" in refusal(folder).message


def test_weights_that_are_missing_cut_short_or_gone(copied: Saved) -> None:
    folder = copied("clip")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    weights = safetensors.torch.load(whole)
    del weights["visual_projection.weight"]
    path.write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
    error = refusal(folder)
    assert "lacks 1 of CLIPModel's weights: visual_projection.weight" in error.message
    path.write_bytes(whole[: len(whole) // 2])
    assert "weights could not be read" in refusal(folder).message
    path.unlink()
    assert "weights could not be read" in refusal(folder).message


def test_an_answer_that_is_written_word_by_word_is_a_model_in_parts(tmp_path: Path) -> None:
    import blip_parts

    error = refusal(blip_parts.save(tmp_path))
    assert "vision, question, prefill, decoder" in error.message
    assert "mmtrt export" in str(error.fix)


def test_a_model_whose_inputs_nobody_can_make_names_the_input(tmp_path: Path) -> None:
    import transformers

    config = transformers.TimeSeriesTransformerConfig(
        prediction_length=2, context_length=4, d_model=8, encoder_layers=1, decoder_layers=1, lags_sequence=[1]
    )
    transformers.TimeSeriesTransformerForPrediction(config).save_pretrained(tmp_path)
    error = refusal(tmp_path)
    assert "forward wants 'past_values'" in error.message
    assert "package.module:function" in str(error.fix)


def test_a_model_that_refuses_all_that_was_tried_is_quoted(copied: Saved) -> None:
    folder = copied("llava")
    configure(folder, image_token_index=999)
    message = refusal(folder).message
    assert "LlavaForConditionalGeneration refuses the inputs input_ids, pixel_values, attention_mask" in message
    assert "pixel_values (3, 32, 32)" in message
