"""Each name of TensorRT that mmtrt uses is in each release that can reach the line, with that signature."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_table import RTX, describe
from trt_table import Table, accepts
from trt_uses import Checked, check_folder, check_sources

import mmtrt

TABLE = Table.read()
RELEASES = {"10.3", "10.13", "10.16", "11.4", "RTX 1.7"}
HEAD = """
from mmtrt.runtimes.tensorrt_api import import_flavour, logger_of

def main(flavour: str, plan: bytes, path: str) -> object:
    api = import_flavour(flavour)
    logger = logger_of(api)
    builder = api.Builder(logger)
    network = builder.create_network(0)
    config = builder.create_builder_config()
    parser = api.OnnxParser(network, logger)
    engine = api.Runtime(logger).deserialize_cuda_engine(plan)
    flags = api.NetworkDefinitionCreationFlag
"""
GONE_IN_11 = {
    "flags.EXPLICIT_BATCH": "flags",
    "engine.device_memory_size": "engine",
    "parser.supports_model(plan)": "parser",
    "engine.create_execution_context_without_device_memory()": "engine",
    "api.BuilderFlag.FP16": "api.BuilderFlag",
    "config.int8_calibrator": "config",
}


def told(body: str, *more: str) -> list[str]:
    """The faults of a few lines, without file and line."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    checked = check_sources([("main.py", f"{HEAD}{lines}\n"), *(("more.py", text) for text in more)], TABLE)
    return [f"{fault.name}{fault.fault}" for fault in checked.faults]


@pytest.fixture(scope="module")
def sources() -> Checked:
    return check_folder(Path(mmtrt.__file__).parent, TABLE)


def test_each_release_has_each_name_that_is_used(sources: Checked) -> None:
    assert [str(fault) for fault in sources.faults] == []


def test_the_walk_finds_what_mmtrt_uses(sources: Checked) -> None:
    names = {use.name for use in sources.uses}

    assert {
        "Builder.build_serialized_network",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "ParserError.desc",
        "ITensor.is_shape_tensor",
        "IBuilderConfig.set_timing_cache",
        "ITimingCache.serialize",
        "EngineInspector.get_engine_information",
        "Runtime.engine_host_code_allowed",
        "ICudaEngine.get_tensor_profile_shape",
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        "IExecutionContext.execute_async_v3",
        "ILogger.WARNING",
    } <= names
    assert len(names) > 75


def test_the_type_of_each_object_of_tensorrt_is_known(sources: Checked) -> None:
    # TensorRT calls `log` itself.
    assert sources.untyped == {"log(severity)"}


def test_the_table_holds_five_releases() -> None:
    assert TABLE.releases == RELEASES
    assert {label for kinds in TABLE.kinds.values() for label in kinds} == RELEASES
    assert set(TABLE.find("ICudaEngine", "create_runtime_config")) == RELEASES - {"10.3"}
    assert set(TABLE.find("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH")) == {"10.3", "10.13", "10.16"}


def test_the_table_is_what_the_installed_bindings_say() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    if rtx.__version__ != TABLE.versions[RTX]:
        pytest.skip(f"TensorRT-RTX {rtx.__version__} is installed, the table is of {TABLE.versions[RTX]}")

    assert describe(rtx) == {name: kinds[RTX] for name, kinds in TABLE.kinds.items() if RTX in kinds}


@pytest.mark.parametrize(("use", "owner"), GONE_IN_11.items())
def test_a_name_that_went_in_11_is_a_fault_unless_it_is_tested_for(use: str, owner: str) -> None:
    name = use.removeprefix(f"{owner}.").partition("(")[0]
    lost = f"{name} is not in 11.4, RTX 1.7"

    assert any(lost in fault for fault in told(use))
    assert told(f"if hasattr({owner}, {name!r}):\n    {use}") == []
    assert told(f"return {use} if hasattr({owner}, {name!r}) else None") == []
    assert told(f"if not hasattr({owner}, {name!r}):\n    return None\n{use}") == []
    assert told(f"return hasattr({owner}, {name!r}) and {use}") == []
    assert told(f"found = getattr({owner}, {name!r}, None)") == []


@pytest.mark.parametrize(
    "body",
    [
        "if hasattr(flags, 'STRONGLY_TYPED'):\n    flags.EXPLICIT_BATCH",
        "if hasattr(flags, 'EXPLICIT_BATCH'):\n    pass\nflags.EXPLICIT_BATCH",
        "if hasattr(flags, 'EXPLICIT_BATCH'):\n    pass\nelse:\n    flags.EXPLICIT_BATCH",
        "if not hasattr(flags, 'EXPLICIT_BATCH'):\n    print(flags)\nflags.EXPLICIT_BATCH",
        "if hasattr(flags, 'EXPLICIT_BATCH') or plan:\n    flags.EXPLICIT_BATCH",
        "getattr(flags, 'EXPLICIT_BATCH')",
        "for name in path:\n    flags.EXPLICIT_BATCH",
        "with open(path) as stream:\n    stream.write(flags.EXPLICIT_BATCH)",
        "[flags.EXPLICIT_BATCH for _ in path]",
        "print(str(int(flags.EXPLICIT_BATCH)))",
        "match path:\n    case 'a':\n        flags.EXPLICIT_BATCH",
        "one, other = flags, config\none.EXPLICIT_BATCH",
        "try:\n    return plan\nfinally:\n    flags.EXPLICIT_BATCH",
    ],
)
def test_a_test_counts_only_where_it_holds(body: str) -> None:
    assert told(body) == ["NetworkDefinitionCreationFlag.EXPLICIT_BATCH is not in 11.4, RTX 1.7"]


def test_a_test_of_one_name_lets_pass_what_the_same_releases_have() -> None:
    assert told("if hasattr(config, 'set_compute_capability'):\n    api.ComputeCapability.SM120") == []
    assert told("if hasattr(engine, 'create_runtime_config'):\n    engine.create_runtime_config()") == []
    strategy = "api.DynamicShapesKernelSpecializationStrategy.EAGER"
    assert told(f"if hasattr(engine, 'create_runtime_config'):\n    {strategy}") == [
        "DynamicShapesKernelSpecializationStrategy is not in 10.13, 10.16, 11.4",
        "DynamicShapesKernelSpecializationStrategy.EAGER is not in 10.13, 10.16, 11.4",
    ]


def test_the_flavour_and_a_name_that_is_not_none_narrow_the_releases() -> None:
    assert told("if flavour == 'tensorrt-rtx':\n    config.num_compute_capabilities = 1") == []
    assert told("if flavour != 'tensorrt-rtx':\n    return None\nconfig.num_compute_capabilities = 1") == []
    assert told("if flavour == 'tensorrt':\n    api.BuilderFlag.FP16") == ["BuilderFlag.FP16 is not in 11.4"]
    found = "kind = getattr(api, 'ComputeCapability', None)\n"
    assert told(f"{found}if kind is not None:\n    kind.SM120") == []
    assert told(f"{found}if kind is None:\n    return None\nkind.SM120") == []
    assert told(f"{found}kind.SM120") == ["ComputeCapability.SM120 is not in 10.13, 10.16, 10.3, 11.4"]


def test_what_is_handed_on_is_followed() -> None:
    helper = "def size(engine) -> int:\n    return engine.device_memory_size\n"
    lost = ["ICudaEngine.device_memory_size is not in 11.4, RTX 1.7"]

    assert told("return size(engine)", helper) == lost
    assert told("return size(engine) if hasattr(engine, 'device_memory_size') else 0", helper) == []
    # A function that is a value may be called from anywhere.
    assert told("size(engine) if hasattr(engine, 'device_memory_size') else print(size)", helper) == lost
    held = (
        "class Held:\n    engine: object\n\ndef size(held: Held) -> int:\n    return held.engine.device_memory_size\n"
    )
    assert told("return size(Held(engine=engine))", held) == lost
    logs = "return [tensor.dynamic_range for tensor in [network.get_input(i) for i in range(network.num_inputs)]]"
    assert told(logs) == ["ITensor.dynamic_range is not in 11.4, RTX 1.7"]


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("config.set_timing_cache(config.create_timing_cache(plan))", "IBuilderConfig.set_timing_cache()"),
        ("config.set_timing_cache(None, mismatch=False)", "IBuilderConfig.set_timing_cache()"),
        ("builder.create_network(0, 1)", "Builder.create_network()"),
        ("builder.create_network(flag=0)", "Builder.create_network()"),
        ("api.Builder()", "Builder()"),
        ("api.OnnxParser(network)", "OnnxParser()"),
        ("engine.create_execution_context(runtime_config=None)", "ICudaEngine.create_execution_context()"),
        ("engine.num_io_tensors = 3", "ICudaEngine.num_io_tensors can't be set"),
        ("engine.num_bindings", "ICudaEngine.num_bindings is not in 10.13, 10.16, 10.3, 11.4, RTX 1.7"),
    ],
)
def test_a_call_that_no_signature_takes_is_a_fault(body: str, fault: str) -> None:
    (found,) = told(body)

    assert found.startswith(fault)


def test_signatures_are_read() -> None:
    signature = "(name: str, shape: tuple[int, int], stream: int = 0) -> bool"

    assert accepts(signature, 2, [])
    assert accepts(signature, 1, ["shape", "stream"])
    assert not accepts(signature, 1, [])
    assert not accepts(signature, 2, ["name"])
    assert not accepts(signature, 4, [])
    assert accepts(f"() -> None\n{signature}", 0, [])
    assert accepts("callable", 7, ["anything"])
