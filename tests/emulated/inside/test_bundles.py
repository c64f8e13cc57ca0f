"""Sessions on bundles and deployments on the emulated GPU: which engine runs, and what stays."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_gpu import Emulated
from made_bundles import engine_row, make_bundle, make_deployment
from plans import make_plan
from sessions import same
from tiny_fusion import LABELS, PREPROCESSING

from mmtrt import Session
from mmtrt.artifacts import file_digest
from mmtrt.errors import InputError, MachineError
from mmtrt.streaming import run_stream
from mmtrt.zoo.asking import Vqa

TOLD: dict[str, Any] = {"preprocessing": PREPROCESSING, "labels": LABELS}
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
QUESTION = "What colour is the circle?"


@pytest.fixture(autouse=True)
def nothing_stays(emulated: Emulated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = emulated.live
    yield
    assert emulated.live == before
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def bundle(tiny: Path, engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three engines: one for another GPU, one portable, and the one for this GPU."""
    folder = tmp_path_factory.mktemp("bundle")
    portable = make_plan(tiny, folder / "portable.engine", flavor="tensorrt-rtx")
    other = make_plan(tiny, folder / "other.engine")
    import tensorrt_rtx

    rows = {
        other: engine_row(other, gpu="NVIDIA Orin", target="orin"),
        portable: engine_row(
            portable,
            flavor="tensorrt-rtx",
            flavor_version=tensorrt_rtx.__version__,
            gpu=None,
            compute_capability=None,
            target="rtx",
        ),
        engine: engine_row(engine),
    }
    targets = {"orin": "fp32", "rtx": "fp32", "board": "fp32"}
    return make_bundle(folder / "tiny.mmtrt", tiny, engines=rows, targets=targets, **TOLD)


def test_the_engine_of_this_very_gpu_runs_from_pictures_and_text(bundle: Path, model: Session) -> None:
    with Session(bundle) as session:
        assert session.runs.startswith("TensorRT 10")
        assert session.precision == "emulated"
        feeds = session.feeds(image=PICTURE, question=QUESTION)
        assert same(session.run(feeds), model.run(feeds))
        with session.bind(feeds) as bound:
            assert same(bound.run(), model.run(feeds))


def test_a_portable_engine_runs_where_its_target_is_named(bundle: Path, model: Session) -> None:
    with Session(bundle, target="rtx") as session:
        assert session.runs.startswith("TensorRT-RTX")
        feeds = session.feeds(image=PICTURE, question=QUESTION)
        assert same(session.run(feeds), model.run(feeds))


def test_an_engine_of_another_gpu_is_not_tried(bundle: Path) -> None:
    with pytest.raises(MachineError) as raised:
        Session(bundle, target="orin")
    assert "other.engine is for NVIDIA Orin, and this is Emulated GPU" in str(raised.value)
    assert "mmtrt deploy tiny.mmtrt --to DIR" in str(raised.value)


def test_an_engine_that_is_not_its_manifests_is_refused(tiny: Path, engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "planted.engine"
    file.write_bytes(engine.read_bytes() + b"more")
    Path(f"{file}.json").write_bytes(Path(f"{engine}.json").read_bytes())
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, engines={file: engine_row(file)})
    with pytest.raises(InputError, match="was altered"):
        Session(path)


def test_an_engine_that_carries_a_library_is_refused(tiny: Path, engine: Path, tmp_path: Path) -> None:
    file = tmp_path / "planted.engine"
    file.write_bytes(engine.read_bytes() + b"\x7fELF\x02\x01\x01".ljust(18, b"\0") + b"\x3e\0")
    told = json.loads(Path(f"{engine}.json").read_text(encoding="utf-8"))
    told["engine"]["sha256"] = file_digest(file)
    Path(f"{file}.json").write_text(json.dumps(told), encoding="utf-8")
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, engines={file: engine_row(file)})
    with pytest.raises(InputError, match="carries native code for x86-64"):
        Session(path)


def test_nothing_lies_on_the_disk_while_an_engine_runs(bundle: Path) -> None:
    with Session(bundle) as session:
        assert list(Path(tempfile.gettempdir()).iterdir()) == []
        assert session.run(session.feeds(image=PICTURE, question=QUESTION))["answer"].shape == (1, 5)


def test_labels_that_do_not_fit_the_engine_give_the_gpu_back(tiny: Path, engine: Path, tmp_path: Path) -> None:
    labels = {"answer": ["yes", "no"]}
    path = make_bundle(tmp_path / "tiny.mmtrt", tiny, engines={engine: engine_row(engine)}, labels=labels)
    with pytest.raises(InputError, match="'answer' has 5 classes, and 2 names"):
        Session(path)


@pytest.fixture
def deployment(tiny: Path, engine: Path, tmp_path: Path) -> Path:
    return make_deployment(tmp_path / "deployed", tiny, engine, **TOLD)


def test_a_deployment_answers(deployment: Path, model: Session) -> None:
    with Session(deployment) as session:
        assert session.path == (deployment / "current" / "model.engine").resolve()
        feeds = session.feeds(image=PICTURE, question=QUESTION)
        assert same(session.run(feeds), model.run(feeds))
        answer = Vqa(session).ask(PICTURE, QUESTION)
    wanted = model.run(feeds)["answer"][0]
    assert answer.answer == LABELS["answer"][int(wanted.argmax())]
    assert answer.score == pytest.approx(float(np.exp(wanted.max()) / np.exp(wanted).sum()), rel=1e-4)


def test_a_deployed_engine_that_was_exchanged_is_refused(deployment: Path, tiny: Path) -> None:
    # Another engine, whole, with its own manifest: it is not the one that the deploy verified.
    make_plan(tiny, deployment / "current" / "model.engine", flavor="tensorrt-rtx")
    with pytest.raises(InputError, match="not the engine that was deployed"):
        Session(deployment)


def test_what_the_deploy_compiled_is_used(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_plan(tiny, tmp_path / "rtx.engine", flavor="tensorrt-rtx")
    deployment = make_deployment(tmp_path / "deployed", tiny, engine, **TOLD)
    (deployment / "cache").mkdir()
    monkeypatch.setenv("MMTRT_CACHE_DIR", str(tmp_path / "own"))
    for _ in range(2):
        with Session(deployment) as session:
            session.run(session.feeds(image=PICTURE, question=QUESTION))
            assert session.notes == ()
        (kernels,) = (deployment / "cache" / "runtime").iterdir()
        assert len(json.loads(kernels.read_bytes().removeprefix(b"rtrc"))) == 1
    assert not (tmp_path / "own").exists()


def test_a_switch_meanwhile_changes_nothing(deployment: Path, tiny: Path, engine: Path, tmp_path: Path) -> None:
    newer = make_deployment(tmp_path / "newer", tiny, engine)
    with Session(deployment) as session:
        (deployment / "current").unlink()
        (deployment / "current").symlink_to(newer / "current")
        assert session.run(session.feeds(image=PICTURE, question=QUESTION))["answer"].shape == (1, 5)
    with Session(deployment) as session:
        assert session.preprocessing is None


def test_a_deployed_engine_whose_bytes_changed_is_refused(deployment: Path) -> None:
    engine = deployment / "current" / "model.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match="was altered"):
        Session(deployment)


def test_a_stream_runs_through_the_engine(deployment: Path, emulated: Emulated) -> None:
    pictures = [np.full((16, 16, 3), shade, dtype=np.uint8) for shade in range(0, 250, 10)]
    answers = []
    with Session(deployment) as session:
        vqa = Vqa(session)
        summary = run_stream(
            pictures, lambda picture: answers.append(vqa.ask(picture, QUESTION)), stop=threading.Event()
        )
    assert (summary.taken, summary.done, summary.dropped) == (25, 25, 0)
    assert len(answers) == 25
    assert summary.latency.p50_ms is not None
    assert summary.latency.p50_ms >= (summary.work.p50_ms or np.inf)
