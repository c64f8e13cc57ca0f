from __future__ import annotations

import functools
import time
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmtrt.errors import InputError, MachineError, MeasurementError
from mmtrt.pipeline.torch_sides import torch_contender
from mmtrt.runtimes import Runner, torch_cuda, torch_module
from mmtrt.runtimes.timing import Timeable
from mmtrt.runtimes.torch_cuda import TorchGpuRunner, torch_runner
from mmtrt.runtimes.torch_module import LoadedModule, TorchRunner
from mmtrt.tensors import TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=("batch", 6))


class Mlp(nn.Module):
    """A linear layer and one number that a test may put wrong in FP16."""

    def __init__(self, large: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)
        self.large = large

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.layer(x)
        return torch.relu(hidden), (hidden * self.large) / self.large


class Broken(Mlp):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch._dynamo.graph_break()
        return super().forward(x * float(x.sum()))


def loading(module: nn.Module) -> Callable[[], LoadedModule]:
    return lambda: LoadedModule(module=module.eval(), inputs=(X,), outputs=("first", "second"))


def feeds(batch: int = 3) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch).standard_normal((batch, 6)).astype(np.float32)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are captured and run as they are: the C++ compiler would take half a minute."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def test_eager_answers_as_the_module_does() -> None:
    module = Mlp()
    with TorchRunner(loading(module), kind="torch") as runner:
        assert isinstance(runner, Runner)
        told = runner.infer(feeds())
        with torch.inference_mode():
            first, second = module(torch.from_numpy(feeds()["x"]))
        assert np.array_equal(told["first"], first.numpy())
        assert np.array_equal(told["second"], second.numpy())
        assert runner.runs == f"PyTorch {torch.__version__} eager fp32 CPU"
        assert runner.notes == ("against eager FP32: first exact, second exact",)


def test_on_the_cpu_time_is_the_callers() -> None:
    assert not isinstance(TorchRunner(loading(Mlp()), kind="torch"), Timeable)
    assert isinstance(TorchGpuRunner(loading(Mlp()), kind="torch"), Timeable)


def test_wrong_inputs_are_named() -> None:
    with TorchRunner(loading(Mlp()), kind="torch") as runner, pytest.raises(InputError, match="'x'"):
        runner.infer({"x": np.zeros((2, 7), np.float32)})


@pytest.mark.usefixtures("quick")
def test_compiling_is_told_with_what_it_made() -> None:
    with TorchRunner(loading(Mlp()), kind="torch-compile") as runner:
        for batch in (3, 3, 5):
            runner.infer(feeds(batch))
        compared, compiled = runner.notes
        assert compared.startswith("against eager FP32: first ")
        assert compiled.endswith("2 graphs for 2 shapes, 0 graph breaks")
        assert runner.runs == f"PyTorch {torch.__version__} torch.compile fp32 CPU"


@pytest.mark.usefixtures("quick")
def test_each_of_many_shapes_is_compiled_for_itself() -> None:
    with TorchRunner(loading(Mlp()), kind="torch-compile") as runner:
        for batch in range(1, 13):
            assert runner.infer(feeds(batch))["first"].shape == (batch, 4)
        assert "12 graphs for 12 shapes" in runner.notes[-1]


@pytest.mark.usefixtures("quick")
def test_graph_breaks_are_counted() -> None:
    with TorchRunner(loading(Broken()), kind="torch-compile") as runner:
        runner.infer(feeds())
        assert " 0 graph breaks" not in runner.notes[-1]


def test_a_model_that_the_compiler_refuses_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(module: nn.Module, inputs: Any) -> Any:
        raise NotImplementedError("no kernel for this")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=refusing))
    reason = r"torch\.compile in fp32 refuses the model: .*\n?.*no kernel for this"
    with (
        TorchRunner(loading(Mlp()), kind="torch-compile") as runner,
        pytest.raises(MeasurementError, match=reason),
    ):
        runner.infer(feeds())


def test_a_model_that_fails_in_eager_too_is_told() -> None:
    with (
        TorchRunner(loading(nn.Linear(3, 3)), kind="torch") as runner,
        pytest.raises(MeasurementError, match="eager in fp32"),
    ):
        runner.infer(feeds())


def test_without_a_compiler_the_fix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_module.shutil, "which", lambda _: None)
    with pytest.raises(MachineError, match=r"C\+\+ compiler"):
        TorchRunner(loading(Mlp()), kind="torch-compile").__enter__()
    with TorchRunner(loading(Mlp()), kind="torch"):
        pass


def test_fp16_on_the_cpu_is_fp32_and_says_so() -> None:
    with TorchRunner(loading(Mlp()), kind="torch", precision="fp16") as runner:
        runner.infer(feeds())
        assert " fp32 CPU" in runner.runs
        assert "fp16 was asked for" in runner.notes[0]


def test_this_machine_has_its_runner_and_loads_late() -> None:
    def never() -> LoadedModule:
        raise AssertionError("it was not entered")

    runner = torch_runner(never, kind="torch", precision="fp16")
    assert isinstance(runner, TorchGpuRunner) is torch.cuda.is_available()


def test_a_source_becomes_a_contender() -> None:
    with torch_contender("tiny_fusion:factory", None, "torch", "fp32") as runner:
        assert [spec.name for spec in runner.inputs] == ["image", "ids", "mask"]
        told = runner.infer(
            {
                "image": np.zeros((2, 3, 16, 16), np.float32),
                "ids": np.ones((2, 5), np.int64),
                "mask": np.ones((2, 5), np.int64),
            }
        )
        assert (told["answer"].shape, told["match"].shape) == ((2, 5), (2, 2))


def test_a_source_that_is_none_is_told_when_it_is_entered() -> None:
    runner = torch_contender("no_such_module:factory", None, "torch", "fp32")
    with pytest.raises(InputError):
        runner.__enter__()


@pytest.mark.slow
def test_the_real_compiler_answers_as_eager_does() -> None:
    with torch_contender("tiny_fusion:factory", None, "torch-compile", "fp32") as runner:
        one = {
            "image": np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32),
            "ids": np.ones((2, 5), np.int64),
            "mask": np.ones((2, 5), np.int64),
        }
        with torch_contender("tiny_fusion:factory", None, "torch", "fp32") as eager:
            expected = eager.infer(one)
        found = runner.infer(one)
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, atol=1e-5)
        assert "1 graphs for 1 shapes, 0 graph breaks" in runner.notes[-1]


# --------------------------------------------------------------------------- on a GPU that is none


class FakeEvent:
    """Keeps when it was recorded; the device's time is the host's."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self, _: Any) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: FakeEvent) -> float:
        return (end.at - self.at) * 1e3


class OnNoGpu(TorchGpuRunner):
    device = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What of `torch.cuda` is called, by the host; what is copied is noted."""
    copies: list[str] = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def noted(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        assert non_blocking
        copies.append(f"{tuple(source.shape)} {source.dtype}")
        return self.zero_().add_(source)

    monkeypatch.setattr(torch_cuda, "_pinned", pinned)
    monkeypatch.setattr(torch.Tensor, "copy_", noted)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA None")
    return copies


def test_parts_of_a_run_sum_to_its_latency(gpu: list[str]) -> None:
    with (
        OnNoGpu(loading(Mlp()), kind="torch") as runner,
        runner.timed(feeds(), cuda_graph=True, transfers=True) as run,
    ):
        gpu.clear()
        timing = run.once()
        assert (run.clock, run.cuda_graph, run.transfers) == ("cuda_event", False, True)
        assert gpu == ["(3, 6) torch.float32", "(3, 4) torch.float32", "(3, 4) torch.float32"]
        assert timing.h2d_ms is not None
        assert timing.compute_ms is not None
        assert timing.d2h_ms is not None
        assert timing.latency_ms == pytest.approx(timing.h2d_ms + timing.compute_ms + timing.d2h_ms)
        assert timing.enqueue_ms is not None
        assert timing.enqueue_ms <= timing.host_ms
        assert run.burst(4) > 0
        assert runner.runs == f"PyTorch {torch.__version__} eager fp32 on NVIDIA None"


def test_without_transfers_nothing_is_copied(gpu: list[str]) -> None:
    with (
        OnNoGpu(loading(Mlp()), kind="torch") as runner,
        runner.timed(feeds(), cuda_graph=True, transfers=False) as run,
    ):
        gpu.clear()
        timing = run.once()
        run.burst(3)
        assert gpu == []
        assert (timing.h2d_ms, timing.d2h_ms) == (None, None)
        assert timing.latency_ms == timing.compute_ms


@pytest.mark.usefixtures("gpu")
def test_fp16_is_compared_with_fp32_before_it_is_timed() -> None:
    with OnNoGpu(loading(Mlp()), kind="torch", precision="fp16") as runner:
        told = runner.infer(feeds())
        assert told["first"].dtype == np.float32
        assert next(runner._open.module.parameters()).dtype == torch.float16
        assert "eager fp16 on NVIDIA None" in runner.runs
        assert "exact" not in runner.notes[0]
        assert runner.notes[0].startswith("against eager FP32: first ")


@pytest.mark.usefixtures("gpu")
def test_garbage_in_fp16_is_told() -> None:
    with OnNoGpu(loading(Mlp(large=1e6)), kind="torch", precision="fp16") as runner:
        runner.infer(feeds())
        assert runner.notes[0].startswith("its outputs are not the model's: against eager FP32: first ")
        assert "values not finite" in runner.notes[0]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("asked", "mode"), [(True, "max-autotune"), (False, "max-autotune-no-cudagraphs")])
def test_graphs_are_used_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch, asked: bool, mode: str) -> None:
    seen: list[dict[str, Any]] = []

    def compiled(module: nn.Module, **options: Any) -> nn.Module:
        seen.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch_cuda, "find_spec", lambda _: object())
    with OnNoGpu(loading(Mlp()), kind="torch-compile", precision="fp16") as runner:
        with runner.timed(feeds(), cuda_graph=asked, transfers=False) as run:
            # None was replayed here, whatever was asked for.
            assert run.cuda_graph is False
        assert seen == [{"dynamic": False, "mode": mode}]
        assert "torch.compile max-autotune fp16" in runner.runs


@pytest.mark.usefixtures("gpu")
def test_a_graph_that_is_launched_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = SimpleNamespace(key_averages=lambda: [SimpleNamespace(key="cudaGraphLaunch")])
    monkeypatch.setattr(torch.profiler, "profile", lambda: nullcontext(launched))
    with (
        OnNoGpu(loading(Mlp()), kind="torch") as runner,
        runner.timed(feeds(), cuda_graph=True, transfers=False) as run,
    ):
        # Eager runs have none, and nobody looks.
        assert run.cuda_graph is False
        assert run.replays_graph() is True  # type: ignore[attr-defined]


@pytest.mark.usefixtures("gpu")
def test_on_a_gpu_the_compiler_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_cuda, "find_spec", lambda _: None)
    with pytest.raises(MachineError, match="triton"):
        OnNoGpu(loading(Mlp()), kind="torch-compile").__enter__()
