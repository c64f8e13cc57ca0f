from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mmtrt.deploy.golden import Golden, measured, on_these
from mmtrt.deploy.shapes import fitting, profile_for
from mmtrt.engine.targets import Target
from mmtrt.errors import SampleError
from mmtrt.results import CheckResult, OutputResult, Ran, Verdict
from mmtrt.tensors import ModelSpec, ShapeRange, TensorSpec


def checked(verdict: Verdict, measured: float | None, bound: float = 0.99) -> CheckResult:
    output = OutputResult(
        metrics={"argmax_agreement": measured},
        budget={"argmax_agreement": bound},
        verdict=verdict,
        why=() if verdict == "pass" else ("4 samples can't tell",),
    )
    side = Ran(what="", runs="")
    return CheckResult(verdict=verdict, candidate=side, reference=side, samples=4, outputs={"answer": output})


@pytest.mark.parametrize(
    ("verdict", "measured", "judged"),
    [
        ("pass", 1.0, "pass"),
        ("inconclusive", 1.0, "pass"),
        ("inconclusive", 0.99, "pass"),
        ("inconclusive", 0.9, "inconclusive"),
        ("inconclusive", math.nan, "inconclusive"),
        ("inconclusive", None, "inconclusive"),
        ("fail", 1.0, "fail"),
    ],
)
def test_what_few_samples_cannot_prove_they_must_still_show(
    verdict: Verdict, measured: float | None, judged: Verdict
) -> None:
    result, notes = on_these(checked(verdict, measured))
    assert (result.verdict, result.outputs["answer"].verdict) == (judged, judged)
    assert bool(notes) == (judged == "pass" != verdict)


def test_an_output_without_any_bound_is_not_passed() -> None:
    found = checked("inconclusive", None)
    empty = OutputResult(metrics={}, verdict="inconclusive")
    result, _ = on_these(CheckResult(**{**fields_of(found), "outputs": {"answer": empty}}))
    assert result.verdict == "inconclusive"


def fields_of(found: CheckResult) -> dict[str, object]:
    return {name: getattr(found, name) for name in ("verdict", "candidate", "reference", "samples")}


SPEC = ModelSpec(
    inputs=(
        TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8)),
        TensorSpec(name="ids", dtype="int64", shape=("batch", "words")),
        TensorSpec(name="fixed", dtype="float32", shape=(1, 2)),
    ),
    outputs=(),
    ranges={"batch": (1, 4, 8), "words": (2, 5, 9)},
)


def test_an_engine_takes_the_ranges_of_its_model() -> None:
    assert profile_for(SPEC, Target(name="gpu", description="")) == SPEC.dynamic_profile()


def test_a_dla_core_takes_one_event_of_the_usual_size() -> None:
    profile = profile_for(SPEC, Target(name="dla", description="", dla_core=0, dla_cores=2))
    image, ids = (1, 3, 8, 8), (1, 5)
    assert profile == {
        "image": ShapeRange(min=image, opt=image, max=image),
        "ids": ShapeRange(min=ids, opt=ids, max=ids),
    }
    samples = [{"image": np.zeros((3, 8, 8)), "ids": np.zeros(size), "fixed": np.zeros(2)} for size in (4, 5, 6)]
    assert fitting(samples, profile) == samples[1:2]
    assert fitting(samples, SPEC.dynamic_profile()) == samples


def test_golden_samples_that_would_take_the_memory_are_refused(tmp_path: Path) -> None:
    for number in range(3):
        data = bytearray(zeros(tmp_path / f"{number}.npz").read_bytes())
        at = data.index(b"PK\x01\x02") + 24
        data[at : at + 4] = (500 << 20).to_bytes(4, "little")
        (tmp_path / f"{number}.npz").write_bytes(data)
    golden = Golden(
        engine=tmp_path / "none.engine",
        samples=tmp_path,
        spec=SPEC,
        precision="fp32",
        digest="",
        budget={},
        profile={},
        cache=tmp_path,
        duration_s=1.0,
    )
    with pytest.raises(SampleError, match=r"2\.npz .*holds 524288000 bytes") as raised:
        measured(golden)
    assert "at most 1024 MiB together" in str(raised.value.fix)


def zeros(path: Path) -> Path:
    np.savez_compressed(path, x=np.zeros(1, np.float32))
    return path
