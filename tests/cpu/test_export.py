"""From a module to a verified ONNX file: what is told, what is narrowed, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from mmtrt.errors import InputError, MmtrtError, ModelError, UsageError
from mmtrt.export import verify as verification
from mmtrt.export.exporter import Exported, ExportOptions, export_model
from mmtrt.export.sources import load_source
from mmtrt.onnx_files import load_model, metadata_of, model_spec
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import checked, open_set


def exported(reference: str, folder: Path, **options: object) -> Exported:
    return export_model(load_source(reference), folder, ExportOptions(**options))  # type: ignore[arg-type]


def test_a_complete_source_comes_out_with_all_that_it_told(tiny: Path) -> None:
    spec = model_spec(load_model(tiny))
    assert [str(tensor) for tensor in spec.inputs] == [
        "image: float32 (batch, 3, 16, 16)",
        "ids: int64 (batch, text)",
        "mask: int64 (batch, text)",
    ]
    assert [tensor.name for tensor in spec.outputs] == ["answer", "match"]
    assert spec.modalities == {"image": ("image",), "text": ("ids", "mask")}
    assert spec.ranges == {"batch": (1, 2, 8), "text": (2, 5, 8)}
    assert spec.limits == {"ids": (0, 19)}
    assert spec.source == "tiny_fusion:factory"
    assert {"mmtrt", "torch", "onnx", "onnxruntime"} <= spec.versions.keys()
    assert len(spec.digest) == 64


def test_the_graph_names_modules_and_lines_and_nothing_of_the_machine(tiny: Path) -> None:
    proto = load_model(tiny)
    assert next(o.version for o in proto.opset_import if not o.domain) == 18
    notes = {node.name: {e.key: e.value for e in node.metadata_props} for node in proto.graph.node}
    modules = {row.get("mmtrt.module") for row in notes.values()}
    assert {"stem", "block", "query", "key", "value", "hidden", "answer", "match"} <= modules
    lines = {row["mmtrt.source"] for row in notes.values() if "mmtrt.source" in row}
    assert any(line.startswith("models/tiny_fusion.py:") for line in lines)
    assert str(Path(__file__).parent.parent).encode() not in tiny.read_bytes()


def test_calibration_and_golden_samples_lie_beside(tiny: Path) -> None:
    spec = model_spec(load_model(tiny))
    calibration = list(checked(open_set(str(tiny.with_name("tiny.calib"))), spec))
    assert len(calibration) == 40
    assert {len(sample["ids"]) for sample in calibration} > {2, 8}
    module = load_source("tiny_fusion:factory").module
    golden = list(open_set(str(tiny.with_name("tiny.golden"))))
    assert len(golden) == 8
    for sample in golden:
        with torch.inference_mode():
            told = module(*(torch.from_numpy(sample[name][None]) for name in ("image", "ids", "mask")))
        for name, tensor in zip(("answer", "match"), told, strict=True):
            assert np.allclose(sample[f"output.{name}"], tensor[0].numpy(), atol=1e-6)


def test_it_is_verified_at_the_traced_the_smallest_and_the_largest_shape(tmp_path: Path) -> None:
    made = exported("tiny_fusion:factory", tmp_path, calibration_samples=4)
    assert [row.sizes for row in made.verified if not row.masked] == [
        {"batch": 2, "text": 5},
        {"batch": 1, "text": 2},
        {"batch": 8, "text": 8},
    ]
    assert all(0 <= worst < 1e-4 for row in made.verified for worst in row.max_abs.values())


def test_a_source_that_tells_little_has_a_dynamic_batch_and_its_examples_as_samples(tmp_path: Path) -> None:
    made = exported("tiny_fusion:plain", tmp_path)
    assert made.onnx.name == "tiny_fusion-plain.onnx"
    assert made.spec.inputs[0].shape == ("batch", 6)
    assert made.spec.ranges == {"batch": (1, 4, 8)}
    assert len(list(open_set(str(made.calibration)))) == 4
    assert any("offers no samples" in text for text in made.warnings)


def test_an_end_that_pytorch_refuses_is_narrowed_with_a_warning(tmp_path: Path) -> None:
    made = exported("odd_sources:limited", tmp_path)
    assert made.spec.ranges["steps"] == (1, 10, 12)
    assert any("steps = 20" in text and "12" in text for text in made.warnings)


def test_an_end_that_was_told_and_is_refused_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="steps = 16") as refused:
        exported("odd_sources:limited_told", tmp_path)
    assert "'steps'" in str(refused.value.fix)


def test_an_input_that_is_not_used_is_told(tmp_path: Path) -> None:
    made = exported("odd_sources:unused", tmp_path)
    assert any("'ghost'" in text for text in made.warnings)


def test_a_branch_on_a_size_is_found_by_the_shapes_that_are_verified(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"columns|off by"):
        exported("odd_sources:branching", tmp_path)


def test_a_branch_on_values_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="can't be exported") as refused:
        exported("odd_sources:data_dependent", tmp_path)
    assert "odd_sources.py" in refused.value.message


def test_outputs_of_any_structure_come_out_flat(tmp_path: Path) -> None:
    made = exported("odd_sources:structured", tmp_path)
    assert [tensor.dtype for tensor in made.spec.outputs] == ["float32", "float32", "int64"]


@pytest.mark.parametrize(
    ("reference", "kind", "words"),
    [
        ("zoo:vqa-coatention", UsageError, "zoo:vqa-coattention"),
        ("hf:./nowhere", InputError, "hf:OWNER/NAME"),
        ("just-a-name", UsageError, "package.module:factory"),
        ("no_such_module:factory", InputError, "no_such_module"),
        ("tiny_fusion:factori", InputError, "'factory'"),
        ("tiny_fusion:WORDS", InputError, "callable"),
        ("odd_sources:raising", ModelError, "another disk"),
        ("odd_sources:nothing", ModelError, "(module, inputs)"),
        ("odd_sources:training_mode", ModelError, ".eval()"),
        ("odd_sources:wrong_argument", ModelError, "'ghost'"),
        ("odd_sources:wrong_axes", ModelError, "'input'"),
        ("odd_sources:clashing_axes", ModelError, "'b'"),
        ("odd_sources:wrong_extra", ModelError, "'modalities'"),
    ],
)
def test_a_source_that_is_wrong_is_refused_with_its_mend(reference: str, kind: type[MmtrtError], words: str) -> None:
    with pytest.raises(kind) as refused:
        load_source(reference)
    assert words in str(refused.value)


def test_a_graph_that_says_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = verification.run_isolated

    def off(*args: object, **kwargs: object) -> object:
        runs = real(*args, **kwargs)  # type: ignore[arg-type]
        runs[2]["match"] = runs[2]["match"] + 0.01
        return runs

    monkeypatch.setattr(verification, "run_isolated", off)
    with pytest.raises(ModelError, match=r"'match'.*off by 0\.01.*batch = 8"):
        exported("tiny_fusion:factory", tmp_path, calibration_samples=4)


def test_the_digest_follows_the_weights() -> None:
    first, second = load_source("tiny_fusion:factory"), load_source("tiny_fusion:factory")
    assert first.digest == second.digest
    with torch.no_grad():
        second.module.answer.bias[0] += 1e-6
    from mmtrt.export.sources import _digest  # the only door to a module that was changed in place

    assert _digest(second.module, test_the_digest_follows_the_weights) != _digest(
        first.module, test_the_digest_follows_the_weights
    )


def test_metadata_survives_a_move_and_an_edit_by_another_tool(tiny: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(tiny))
    told = json.loads(metadata_of(proto)["mmtrt.spec"])
    assert told["schema"] == "mmtrt.spec/1"
    for value in proto.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(proto, str(tmp_path / "fixed.onnx"))
    spec = model_spec(load_model(tmp_path / "fixed.onnx"))
    assert spec.inputs[0].shape == (2, 3, 16, 16)
    assert spec.modalities == {"image": ("image",), "text": ("ids", "mask")}
    assert set(spec.ranges) == {"text"}


def test_another_opset_is_another_graph(tmp_path: Path) -> None:
    made = exported("tiny_fusion:plain", tmp_path, opset=20)
    assert next(o.version for o in onnx.load(str(made.onnx)).opset_import if not o.domain) == 20
    with OrtRunner(made.onnx, "parity") as runner:
        assert runner.infer({"input": np.zeros((1, 6), dtype=np.float32)})


def test_an_export_does_not_replace_samples_that_somebody_added(tiny: Path, tmp_path: Path) -> None:
    from mmtrt.artifacts import StageCache
    from mmtrt.pipeline.context import Context
    from mmtrt.pipeline.exporting import export_stage, publish_export

    context, source = Context(cache=StageCache(tmp_path / "cache")), load_source("tiny_fusion:factory")
    first = export_stage(context, source, ExportOptions(calibration_samples=4))
    second = export_stage(context, source, ExportOptions(calibration_samples=5))
    out = tmp_path / "out"
    publish_export(first, out, "tiny")
    publish_export(second, out, "tiny")
    assert len(list((out / "tiny.calib").glob("*.npz"))) == 5
    (out / "tiny.calib" / "mine.npz").write_bytes(b"hours of work")
    with pytest.raises(InputError, match=r"mine\.npz"):
        publish_export(first, out, "tiny")
    assert (out / "tiny.calib" / "mine.npz").read_bytes() == b"hours of work"
