"""The static estimate of an engine: bytes, work and launches, summed as they should be."""

from __future__ import annotations

import pytest

from mmtrt.engine.estimate import Gpu, estimate
from mmtrt.engine.layers import EngineLayer, LayerTensor
from mmtrt.engine.targets import load_target, target_names

GPU = Gpu(name="test", memory_gb_s=1, fp32_tflops=1e-3, fp16_tflops=2e-3, int8_tops=4e-3, launch_us=3)


def tensor(dtype: str, *dims: int) -> LayerTensor:
    return LayerTensor(name="t", dtype=dtype, dims=dims)


def layer(
    kind: str, inputs: list[LayerTensor], outputs: list[LayerTensor], nodes: tuple[str, ...], *constants: LayerTensor
) -> EngineLayer:
    return EngineLayer(
        name=kind, kind=kind, tactic="", inputs=tuple(inputs), outputs=tuple(outputs), constants=constants, nodes=nodes
    )


def test_a_kernel_takes_as_long_as_its_bytes_or_its_work_and_a_launch() -> None:
    product = layer("gemm", [tensor("fp16", 10, 20)], [tensor("fp16", 10, 30)], ("a",), tensor("fp16", 20, 30))
    moved = 2 * (10 * 20 + 10 * 30 + 20 * 30)
    light = estimate([product], {"a": 100}, GPU)
    assert light.bytes_moved == moved
    assert light.time_us == pytest.approx(moved / 1e9 * 1e6 + 3)
    heavy = estimate([product], {"a": 6_000_000}, GPU)
    assert heavy.time_us == pytest.approx(12_000_000 / 2e9 * 1e6 + 3)


def test_work_is_counted_once_and_where_it_is_done() -> None:
    convolution = layer(
        "correlation", [tensor("int8", 1, 8, 4, 4)], [tensor("fp32", 1, 8, 4, 4)], ("conv",), tensor("int8", 8, 8, 3, 3)
    )
    epilogue = layer("kgen", [tensor("fp32", 1, 8, 4, 4)], [tensor("int8", 1, 8, 4, 4)], ("conv", "relu"))
    product = layer("gemm", [tensor("fp16", 1, 8)], [tensor("fp16", 1, 8)], ("linear",), tensor("fp16", 8, 8))
    waiting = layer("wait", [], [], ())
    found = estimate([epilogue, convolution, waiting, product], {"conv": 300, "linear": 100}, GPU)
    assert [kernel.macs for kernel in found.kernels] == [0, 300, 100]
    assert found.macs == 400
    assert found.int8_share == 0.75
    assert found.to_json()["kernels"] == 3


def test_an_engine_without_products_has_no_share() -> None:
    assert estimate([layer("kgen", [tensor("fp32", 4)], [tensor("fp32", 4)], ())], {}, GPU).int8_share == 0


def test_open_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="dynamic"):
        estimate([layer("kgen", [tensor("fp32", -1, 4)], [tensor("fp32", 4)], ())], {}, GPU)


@pytest.mark.parametrize("name", target_names())
def test_each_target_names_a_gpu_to_estimate_for(name: str) -> None:
    target = load_target(name)
    if target.dla_core is not None:
        assert target.gpu is None, "times are estimated for GPUs alone"
        return
    gpu = target.gpu
    assert gpu is not None
    assert gpu.fp32_tflops < gpu.fp16_tflops < gpu.int8_tops
