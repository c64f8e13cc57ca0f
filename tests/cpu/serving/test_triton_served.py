"""What `mmtrt triton` writes is served: a server of Triton's protocol takes it, Triton's client gets right answers."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parts_fusion
import pytest
import tiny_fusion
import tritonclient.grpc as client
from fake_triton import FakeTriton, check_config, full_dims, matches, serving, type_of
from held import hold, hold_folder
from refusals import Cli
from tritonclient.utils import triton_to_np_dtype

from conftest import PARTS, TINY, Serve
from mmtrt.artifacts import file_digest
from mmtrt.engine import manifest as manifests
from mmtrt.engine.build import BuildOptions
from mmtrt.engine.flavours import Flavour
from mmtrt.errors import MachineError, ModelError, RecipeError, UsageError
from mmtrt.onnx_files import load_model, model_spec
from mmtrt.pipeline import triton_stages
from mmtrt.pipeline.building import Prepared
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.engine_stage import ENGINE, engine_stage
from mmtrt.pipeline.triton_models import one_model
from mmtrt.pipeline.triton_repository import TritonResult
from mmtrt.pipeline.triton_stages import Ready, choose_backend
from mmtrt.recipe import Recipe, Triton, load_recipe
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.samples import SampleSet, open_set
from mmtrt.tensors import ModelSpec

EXAMPLES = Path(__file__).parents[3] / "examples" / "triton"
Example = Callable[[str], Any]


@pytest.fixture(scope="module")
def tiny_served(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[TritonResult, Path]:
    repository = tmp_path_factory.mktemp("served") / "repository"
    return serve(TINY, repository), repository


@pytest.fixture(scope="module")
def tiny_server(tiny_served: tuple[TritonResult, Path]) -> Iterator[tuple[str, FakeTriton]]:
    with serving(tiny_served[1]) as told:
        yield told


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_clients_answers_are_those_of_the_model(
    tiny: Path, tiny_served: tuple[TritonResult, Path], tiny_server: tuple[str, FakeTriton], example: Example
) -> None:
    result, repository = tiny_served
    assert [(row["name"], row["platform"], row["precision"]) for row in result.models] == [
        ("tiny", "onnxruntime_onnx", "int8")
    ]
    assert result.to_json()["verdict"] == "pass"
    golden = list(open_set(str(tiny.with_name("tiny.golden"))))
    address, fake = tiny_server
    with (
        client.InferenceServerClient(address) as server,
        OrtRunner(repository / "tiny" / "1" / "model.onnx", "speed") as runner,
    ):
        for sample in golden[:4]:
            answer = example("client").ask(server, "tiny", sample)
            feeds = {name: sample[name][None] for name in ("image", "ids", "mask")}
            for name, array in runner.infer(feeds).items():
                np.testing.assert_allclose(answer[name], array, atol=1e-5)
            asked = fake.asked[-1][1]
            assert {name: array.tolist() for name, array in asked.items()} == {
                name: array.tolist() for name, array in feeds.items()
            }


def test_the_clients_script_runs(tiny: Path, tiny_server: tuple[str, FakeTriton]) -> None:
    files = sorted(tiny.with_name("tiny.golden").glob("*.npz"))[:2]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "client.py", tiny_server[0], "tiny", *files],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4
    assert f"{files[1]}: match (1, 2): " in done.stdout


def test_a_request_that_the_configuration_does_not_allow_is_refused(tiny_server: tuple[str, FakeTriton]) -> None:
    with client.InferenceServerClient(tiny_server[0]) as server:
        wrong = np.zeros((9, 3, 16, 16), np.float32)
        inputs = [client.InferInput("image", wrong.shape, "FP32")]
        inputs[0].set_data_from_numpy(wrong)
        with pytest.raises(client.InferenceServerException, match="takes"):
            server.infer("tiny", inputs)


def test_the_configuration_is_held_against_the_onnx(tiny_served: tuple[TritonResult, Path]) -> None:
    config = hold_folder(tiny_served[1] / "tiny")
    assert config.max_batch_size == 8
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert sorted(warm.batch_size for warm in config.model_warmup) == [1, 1, 4, 8]


def test_the_load_is_what_perf_analyzer_reads(tiny: Path, tiny_served: tuple[TritonResult, Path]) -> None:
    folder = tiny_served[1] / "tiny"
    config = hold_folder(folder)
    rows = json.loads((folder / "load" / "input_data.json").read_text(encoding="utf-8"))
    assert rows.keys() == {"data"}
    golden = [{name: array.tolist() for name, array in s.items()} for s in open_set(str(tiny.with_name("tiny.golden")))]
    for row in rows["data"]:
        assert row.keys() == {tensor.name for tensor in config.input}
        told = {}
        for tensor in config.input:
            value = row[tensor.name]
            assert matches(value["shape"], tensor.dims)
            raw = base64.b64decode(value["content"]["b64"], validate=True)
            dtype = np.dtype(triton_to_np_dtype(type_of(tensor))).newbyteorder("<")
            told[tensor.name] = np.frombuffer(raw, dtype).reshape(value["shape"]).tolist()
        assert any(all(sample[name] == told[name] for name in told) for sample in golden)
    lengths = {row["ids"]["shape"][0] for row in rows["data"]}
    assert lengths == {len(sample["ids"]) for sample in golden}, "all lengths are asked for"


def test_the_same_recipe_gives_the_same_bytes(
    serve: Serve, tiny_served: tuple[TritonResult, Path], tmp_path: Path
) -> None:
    again = serve(TINY, tmp_path / "again")
    assert all(check.cached for check in again.checks)
    assert files_of(tmp_path / "again") == files_of(tiny_served[1])


def test_a_version_lies_beside_the_one_before(serve: Serve, tmp_path: Path) -> None:
    serve(TINY, tmp_path / "repository")
    before = files_of(tmp_path / "repository" / "tiny")
    serve(TINY + 'version = 2\nkeep = 2\nprecision = "fp32"\n', tmp_path / "repository")
    folder = tmp_path / "repository" / "tiny"
    after = files_of(folder)
    assert after["1/model.onnx"] == before["1/model.onnx"] != after["2/model.onnx"]
    assert hold_folder(folder).version_policy.latest.num_versions == 2
    assert {n: row["precision"] for n, row in json.loads(after["mmtrt.json"])["versions"].items()} == {
        "1": "int8",
        "2": "fp32",
    }


def test_a_plan_is_held_against_the_engines_manifest(
    serve: Serve, tiny_served: tuple[TritonResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX builds in TensorRT's place, of the extra rtx")
    engines: list[Path] = []

    def built(context: Context, onnx: Path, spec: ModelSpec, options: BuildOptions, **told: Any) -> tuple[Path, bool]:
        assert options.flavor == "tensorrt"
        folder, cached = engine_stage(context, onnx, spec, replace(options, flavor="tensorrt-rtx"), **told)
        engines.append(folder / ENGINE)
        return folder, cached

    flavour = Flavour(name="tensorrt", version="1", needs_gpu_to_build=True)
    monkeypatch.setattr(triton_stages, "choose", lambda _="auto": flavour)
    monkeypatch.setattr(triton_stages, "engine_stage", built)
    result = serve(TINY, tmp_path / "repository")
    folder = tmp_path / "repository" / "tiny"
    files = files_of(folder)
    assert [name for name in files if name.startswith("1/")] == ["1/model.plan"]
    assert files["1/model.plan"] == engines[0].read_bytes()
    onnx = load_model(tiny_served[1] / "tiny" / "1" / "model.onnx")
    config = hold(files["config.pbtxt"].decode(), onnx)
    check_config(config, folder)
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert not config.HasField("optimization"), "the text's length changes: no graph would serve it"
    manifest = manifests.read(engines[0])
    for told, known in ((config.input, manifest.inputs), (config.output, manifest.outputs)):
        assert [tensor.name for tensor in told] == [tensor.name for tensor in known]
        for tensor, other in zip(told, known, strict=True):
            assert triton_to_np_dtype(type_of(tensor)) == np.dtype(other.dtype)
            assert full_dims(config, tensor) == [-1 if isinstance(dim, str) else dim for dim in other.shape]
    assert {manifest.profile[tensor.name].max[0] for tensor in config.input} == {config.max_batch_size}
    assert {manifest.profile[tensor.name].min[0] for tensor in config.input} == {1}
    assert result.models[0]["engine"]["sha256"] == manifest.engine_digest == file_digest(folder / "1" / "model.plan")


def test_labels_are_where_the_configuration_says(tiny_served: tuple[TritonResult, Path]) -> None:
    result, repository = tiny_served
    onnx = repository / "tiny" / "1" / "model.onnx"
    made = Prepared(onnx=onnx, spec=model_spec(load_model(onnx)), precision="int8", summary={})
    samples = SampleSet(source="tiny", key="tiny", read=lambda: tiny_fusion.samples(4))
    names = ("red", "gr\u00fcn", "blue", "a b", '"c"')
    ready = Ready(made=made, golden=samples, labels={"answer": names, "other": ("x",)})
    model = one_model(result.recipe, "onnxruntime", ready)
    (answer, match) = hold(model.config, load_model(onnx)).output
    assert model.files[answer.label_filename] == b'red\ngr\xc3\xbcn\nblue\na b\n"c"\n'
    assert not match.label_filename
    with pytest.raises(ModelError, match="has 5 classes, and the source names 4"):
        one_model(result.recipe, "onnxruntime", replace(ready, labels={"answer": names[:4]}))
    with pytest.raises(ModelError, match="holds a line break"):
        one_model(result.recipe, "onnxruntime", replace(ready, labels={"answer": (*names[:4], "a\nb")}))


def test_who_runs_it_is_chosen_by_what_builds_here(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    context = Context(note=notes.append)

    def recipe(**told: object) -> Recipe:
        return Recipe(name="m", model={"source": "a:b"}, triton=Triton(**told))  # type: ignore[arg-type]

    def here(name: str) -> None:
        def choose(wanted: str = "auto") -> Flavour:
            if name == "none" or wanted not in {"auto", name}:
                raise MachineError(f"no {wanted} here")
            return Flavour(name=name, version="1", needs_gpu_to_build=False)  # type: ignore[arg-type]

        monkeypatch.setattr(triton_stages, "choose", choose)

    here("tensorrt")
    assert choose_backend(context, recipe()) == "tensorrt"
    assert choose_backend(context, recipe(backend="onnx")) == "onnxruntime"
    assert choose_backend(context, recipe(kind="cpu")) == "onnxruntime"
    assert not notes
    here("tensorrt-rtx")
    assert choose_backend(context, recipe()) == "onnxruntime"
    assert "Triton runs no engines of it" in notes[-1]
    with pytest.raises(MachineError, match="no tensorrt here"):
        choose_backend(context, recipe(backend="tensorrt"))
    here("none")
    assert choose_backend(context, recipe()) == "onnxruntime"
    assert "no auto here" in notes[-1]


# ------------------------------------------------------------------------------------------------------- parts


def test_parts_are_an_ensemble(serve: Serve, tmp_path: Path, example: Example) -> None:
    result = serve(PARTS.format(source="two"), tmp_path / "repository", "two")
    assert [row["name"] for row in result.models] == ["two-eye", "two-fuser", "two"]
    for part in ("two-eye", "two-fuser"):
        hold_folder(tmp_path / "repository" / part)
    rows = json.loads((tmp_path / "repository" / "two" / "load" / "input_data.json").read_text())["data"]
    events = list(parts_fusion.samples(3))
    with serving(tmp_path / "repository") as (address, fake), client.InferenceServerClient(address) as server:
        config = fake.models["two"].config
        for row in rows:
            assert all(matches(row[tensor.name]["shape"], tensor.dims) for tensor in config.input)
        for event in events:
            answer = example("client").ask(server, "two", event)
            eye = fake.run("two-eye", {"image": event["image"][None]})
            given = {"regions": eye["regions"], "ids": event["ids"][None], "mask": event["mask"][None]}
            fuser = fake.run("two-fuser", given)
            assert answer.keys() == {"fused", "answer"}
            for name, array in answer.items():
                np.testing.assert_array_equal(array, fuser[name])


def test_a_decoder_is_written_in_parts_that_a_client_loops_over(serve: Serve, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    with pytest.raises(RecipeError, match="'speaker' is run again and again") as told:
        serve(PARTS.format(source="speaking"), repository, "talk")
    assert "generate.py" in str(told.value.fix)
    assert sorted(path.name for path in repository.iterdir()) == ["talk-eye", "talk-fuser", "talk-speaker"]
    whole = files_of(repository)
    result = serve(PARTS.format(source="speaking") + "\n[triton]\nensemble = false\n", repository, "talk")
    assert [row["name"] for row in result.models] == ["talk-eye", "talk-fuser", "talk-speaker"]
    assert files_of(repository).keys() == whole.keys()

    from mmtrt.export.parts import open_source
    from mmtrt.parts import TOKENS, Chain
    from mmtrt.samples import write_sample

    source = open_source("parts_fusion:speaking")
    events = list(source.samples())[:3]  # type: ignore[union-attr, misc]
    files = [tmp_path / f"{index}.npz" for index in range(len(events))]
    for file, event in zip(files, events, strict=True):
        write_sample(file, event)
    with serving(repository) as (address, fake):
        done = subprocess.run(
            [sys.executable, EXAMPLES / "generate.py", address, repository / "talk-speaker" / "pipeline.json", *files],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert {name for name, _ in fake.asked} == {"talk-eye", "talk-fuser", "talk-speaker"}
    from mmtrt.pipeline.parts_export import module_subjects

    runners = {name: subject.exact() for name, subject in module_subjects(source).items()}  # type: ignore[arg-type]
    with Chain(source.wiring, runners) as chain:  # type: ignore[union-attr]
        for line, file, event in zip(done.stdout.splitlines(), files, events, strict=True):
            tokens = chain.infer({name: array[None] for name, array in event.items()})[TOKENS][0]
            assert line == f"{file}: {tokens.tolist()}"


# ---------------------------------------------------------------------------------------------------- refusals


def test_out_of_budget_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY.replace("sqnr_db = 15", "sqnr_db = 120"), encoding="utf-8")
    said = cli("triton", "tiny.toml", "-o", "repository")
    assert said.code == 1
    assert "nothing was written: tiny.int8.onnx is out of budget: answer" in said.err
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("instance = 2", ["unknown key 'triton.instance'", "Did you mean 'instances'?"]),
        ('precision = "fp16"', ["fp16 is not built: precision.build is fp32, int8"]),
        ('engine_cache = "/x"', ["engine_cache is of accelerator"]),
        ('kind = "cpu"\naccelerator = "tensorrt"', ["kind is 'cpu'"]),
        ('backend = "tensorrt"\naccelerator = "tensorrt"', ["accelerator is for an ONNX"]),
        ("version = 0", ["triton.version"]),
    ],
)
def test_a_wrong_section_is_told_at_once(cli: Cli, tmp_path: Path, line: str, words: list[str]) -> None:
    (tmp_path / "tiny.toml").write_text(f"{TINY}\n{line}\n", encoding="utf-8")
    said = cli("triton", "tiny.toml", "-o", "repository")
    assert said.code == 2
    for word in words:
        assert word in said.err
    assert not (tmp_path / "repository").exists()


def test_a_repository_of_something_else_is_told_before_any_work(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    said = cli("triton", "tiny.toml", "-o", ".")
    assert said.code == 2
    assert "is no model repository: it holds 'tiny.toml'" in said.err
    assert "[" not in said.err, "no stage was begun"


def test_a_folder_that_hides_pytorchs_package_is_told(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    said = cli("triton", "tiny.toml", "-o", "triton")
    assert said.code == 2
    assert "hides the package of this name from PyTorch" in said.err


def test_parts_of_a_model_in_one_are_told(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a model in one"):
        serve(TINY + '\n[parts.eye]\nnarrowest = "fp16"\n', tmp_path / "repository")


def test_the_section_is_read(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(TINY, encoding="utf-8")
    recipe = load_recipe(tmp_path / "tiny.toml")
    assert recipe.served_precision == "int8"
    assert recipe.triton.preferred_batch == (4,)
