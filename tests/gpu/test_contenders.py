"""PyTorch beside engines, sensors and layer times, on a real GPU."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from mmtrt.bench.telemetry import Sampler
from mmtrt.runtimes.cuda import GpuInfo

pytestmark = pytest.mark.gpu


@pytest.fixture
def torch_on(gpu: GpuInfo) -> object:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("no GPU for PyTorch: this build of it is for the CPU, or does not know the GPU")
    return torch


def feeds(batch: int = 2) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).standard_normal((batch, 3, 16, 16)).astype(np.float32)
    return {"image": image, "ids": np.ones((batch, 5), np.int64), "mask": np.ones((batch, 5), np.int64)}


@pytest.mark.parametrize(("kind", "precision"), [("torch", "fp32"), ("torch", "fp16"), ("torch-compile", "fp16")])
@pytest.mark.slow
def test_pytorch_is_timed_by_events_and_answers_as_eager_does(torch_on: object, kind: str, precision: str) -> None:
    from mmtrt.pipeline.torch_sides import torch_contender
    from mmtrt.runtimes.timing import Timeable

    runner = torch_contender("tiny_fusion:factory", None, kind, precision)  # type: ignore[arg-type]
    assert isinstance(runner, Timeable)
    with runner, runner.timed(feeds(), cuda_graph=True, transfers=True) as run:
        timing = run.once()
        assert run.clock == "cuda_event"
        assert run.cuda_graph is (kind == "torch-compile")
        parts = (timing.h2d_ms, timing.compute_ms, timing.d2h_ms)
        assert all(part is not None and part >= 0 for part in parts)
        assert timing.latency_ms == pytest.approx(sum(filter(None, parts)), abs=0.02)
        assert run.burst(10) > 0
        assert runner.notes[0].startswith("against eager FP32: ")  # type: ignore[attr-defined]


def test_the_sensors_tell_of_this_gpu(gpu: GpuInfo) -> None:
    with Sampler() as sampler:
        time.sleep(1)
    found = sampler.telemetry
    if found is None:
        pytest.skip(f"no sensors: {sampler.why}")
    if found.source == "nvml":
        assert found.device == gpu.name
    assert found.samples > 3
    assert found.power_w is not None
    assert 0 < found.power_w.mean < 3000
    assert found.energy_j is not None
    # A counter that is renewed ten times a second is off by a tenth of a second at most.
    assert found.energy_j == pytest.approx(found.power_w.mean * found.duration_s, rel=0.5)


def test_layers_of_an_engine_go_to_its_branches(gpu: GpuInfo, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from mmtrt.artifacts import StageCache
    from mmtrt.bench.layers import engine_layer_times
    from mmtrt.engine import manifest
    from mmtrt.pipeline.bench_builds import known_nodes
    from mmtrt.pipeline.building import BuildRequest, build_stage
    from mmtrt.pipeline.context import Context
    from mmtrt.runtimes.tensorrt import TensorRTRunner

    context = Context(cache=StageCache(tmp_path / "cache"))
    request = BuildRequest(model=tiny, folder=tmp_path, precision="fp16", samples=str(tiny.with_name("tiny.calib")))
    engine = Path(build_stage(context, request).artifacts["engine"])
    with TensorRTRunner(engine) as runner:
        timed = [runner.profiled(feeds()) for _ in range(13)][3:]
        runs = runner.runs
    rows = manifest.layer_rows(engine)
    assert rows is not None
    found = engine_layer_times(file=str(engine), runs=runs, rows=rows, timed=timed, nodes=known_nodes(engine))
    assert found.unknown < 0.2
    assert {"image", "text", "fusion"} <= set(found.branches)
