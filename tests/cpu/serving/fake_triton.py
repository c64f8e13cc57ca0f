"""A server that speaks Triton's gRPC protocol, and takes a model repository as Triton does; ONNX Runtime runs models.

What it refuses is what Triton's core refuses: written after its checks of a configuration (names, `dims`, `reshape`,
preferred batches, ensembles), of warm-up data and of requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

Arrays = dict[str, np.ndarray]


class RefusedError(Exception):
    pass


def need(holds: object, why: str) -> None:
    if not holds:
        raise RefusedError(why)


def parse(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def type_of(tensor: Any) -> str:
    return model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")


def full_dims(config: Any, tensor: Any) -> list[int]:
    """The shape of a request's tensor, -1 where it may be any."""
    return [*([-1] if config.max_batch_size else []), *tensor.dims]


def model_dims(config: Any, tensor: Any) -> list[int]:
    """The shape of the model's own tensor."""
    row = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
    return [*([-1] if config.max_batch_size else []), *row]


def matches(shape: Sequence[int], dims: Sequence[int]) -> bool:
    return len(shape) == len(dims) and all(-1 in {s, d} or s == d for s, d in zip(shape, dims, strict=True))


def check_config(config: Any, folder: Path) -> None:
    """What Triton's core asks of each configuration."""
    need(config.name == folder.name, "the name is not the folder's")
    need(config.max_batch_size >= 0, "max_batch_size is negative")
    for tensor in (*config.input, *config.output):
        need(tensor.name and tensor.data_type and len(tensor.dims), f"{tensor.name} is not told")
        shapes = [*tensor.dims, *tensor.reshape.shape]
        need(all(dim >= 1 or dim == -1 for dim in shapes), f"{tensor.name} has a size of 0")
        if tensor.HasField("reshape"):
            need(config.max_batch_size or len(tensor.reshape.shape), "an empty reshape without a batch")
            need(np.prod(tensor.dims) == np.prod(tensor.reshape.shape), "a reshape of another size")
    for output in config.output:
        need(not output.label_filename or (folder / output.label_filename).is_file(), "no such labels")
    for size in config.dynamic_batching.preferred_batch_size:
        need(0 < size <= config.max_batch_size, "a preferred batch that is none")
    if config.HasField("dynamic_batching"):
        need(config.max_batch_size > 0, "dynamic batching without a batch")
    for spec in config.optimization.cuda.graph_spec:
        need(spec.batch_size in range(bool(config.max_batch_size), config.max_batch_size + 1), "a graph of no batch")
        for tensor in config.input:
            need(matches(spec.input[tensor.name].dim, tensor.dims), "a graph of other shapes")
            need(all(dim > 0 for dim in spec.input[tensor.name].dim), "a graph of a shape that is not told")
    ensemble = config.platform == "ensemble"
    need(ensemble == config.HasField("ensemble_scheduling"), "an ensemble is scheduled as one")
    if ensemble:
        need(not config.instance_group, "an ensemble with instances")
        need(not config.HasField("optimization"), "an ensemble with an optimization")
        need(not config.model_warmup, "an ensemble with a warm-up")
    else:
        need(config.platform in {"onnxruntime_onnx", "tensorrt_plan"}, "another platform")
        need(config.backend == {"o": "onnxruntime", "t": "tensorrt"}[config.platform[0]], "another backend")


def warm_up_requests(config: Any, folder: Path) -> Iterator[tuple[int, Arrays]]:
    """Each warm-up as the core makes requests of it: (how many at once, the inputs of one)."""
    for warm in config.model_warmup:
        need(config.max_batch_size or warm.batch_size == 1, "several requests at once without a batch")
        need(warm.batch_size <= max(config.max_batch_size, 1), "a warm-up beyond the largest batch")
        arrays = {}
        for name, told in warm.inputs.items():
            need(all(dim > 0 for dim in told.dims), "a warm-up of a shape that is not told")
            raw = (folder / "warmup" / told.input_data_file).read_bytes()
            dtype = np.dtype(triton_to_np_dtype(type_of(told))).newbyteorder("<")
            need(len(raw) == np.prod(told.dims) * dtype.itemsize, f"{told.input_data_file} has {len(raw)} bytes")
            array = np.frombuffer(raw, dtype).reshape(*told.dims)
            arrays[name] = array[None] if config.max_batch_size else array
        yield warm.batch_size, arrays


class Loaded:
    """One model, in its newest version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = parse((folder / "config.pbtxt").read_text(encoding="ascii"))
        check_config(self.config, folder)
        self.versions = sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())
        need(self.versions, "no version")
        self.session: Any = None
        if self.config.platform == "onnxruntime_onnx":
            file = folder / str(self.versions[-1]) / self.config.default_model_filename
            self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def check(self, arrays: Mapping[str, np.ndarray]) -> None:
        tensors = {tensor.name: tensor for tensor in self.config.input}
        need(arrays.keys() == tensors.keys(), f"{self.config.name} takes {sorted(tensors)}, not {sorted(arrays)}")
        for name, array in arrays.items():
            need(np_to_triton_dtype(array.dtype) == type_of(tensors[name]), f"{name} is {array.dtype}")
            need(matches(array.shape, full_dims(self.config, tensors[name])), f"{name} has the shape {array.shape}")
        if self.config.max_batch_size:
            sizes = {len(array) for array in arrays.values()}
            need(len(sizes) == 1 and max(sizes) <= self.config.max_batch_size, f"batches of {sizes}")

    def run(self, arrays: Mapping[str, np.ndarray]) -> Arrays:
        self.check(arrays)
        feeds = dict(arrays)
        for tensor in self.config.input:
            if tensor.HasField("reshape"):
                feeds[tensor.name] = feeds[tensor.name].reshape(-1, *tensor.reshape.shape)
        names = [tensor.name for tensor in self.config.output]
        found = dict(zip(names, self.session.run(names, feeds), strict=True))
        for tensor in self.config.output:
            if tensor.HasField("reshape"):
                found[tensor.name] = found[tensor.name].reshape(-1, *tensor.dims)
            array = found[tensor.name]
            need(np_to_triton_dtype(array.dtype) == type_of(tensor), f"{tensor.name} came as {array.dtype}")
            need(matches(array.shape, full_dims(self.config, tensor)), f"{tensor.name} came as {array.shape}")
        return found


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):
    """All models of a repository; `asked` holds each request that came, by the name of its model."""

    def __init__(self, repository: Path) -> None:
        folders = [path for path in repository.iterdir() if not path.name.startswith(".")]
        self.models = {path.name: Loaded(path) for path in folders}
        self.asked: list[tuple[str, Arrays]] = []
        for model in self.models.values():
            for step in model.config.ensemble_scheduling.step:
                self._check_step(model.config, step)
            for size, arrays in warm_up_requests(model.config, model.folder):
                model.run({name: np.repeat(array, size, axis=0) for name, array in arrays.items()})

    def _check_step(self, ensemble: Any, step: Any) -> None:
        part = self.models[step.model_name].config
        need(step.model_version in self.models[step.model_name].versions, "a version that is not there")
        need({tensor.name for tensor in part.input} == set(step.input_map), f"inputs of {part.name}")
        need({tensor.name for tensor in part.output} >= set(step.output_map), f"outputs of {part.name}")
        need(not part.max_batch_size or part.max_batch_size >= ensemble.max_batch_size, "a larger batch than a part's")
        outer = {tensor.name: tensor for tensor in (*ensemble.input, *ensemble.output)}
        for tensors, told in ((part.input, step.input_map), (part.output, step.output_map)):
            for tensor in tensors:
                other = outer.get(told[tensor.name])
                if other is not None:
                    need(other.data_type == tensor.data_type, f"{tensor.name} has another type outside")
                    ours, theirs = full_dims(part, tensor), full_dims(ensemble, other)
                    need(matches(ours, theirs) or matches(tensor.dims, other.dims), f"{tensor.name}: {ours}, {theirs}")

    def run(self, name: str, arrays: Arrays) -> Arrays:
        model = self.models[name]
        if model.session is not None:
            return model.run(arrays)
        model.check(arrays)
        known = dict(arrays)
        for step in model.config.ensemble_scheduling.step:
            told = self.run(step.model_name, {name: known[tensor] for name, tensor in step.input_map.items()})
            given = {tensor: told[name] for name, tensor in step.output_map.items()}
            need(not given.keys() & known.keys(), "a tensor is given twice")
            known |= given
        return {tensor.name: known[tensor.name] for tensor in model.config.output}

    # The protocol.

    def ModelMetadata(self, request: Any, _: Any) -> Any:  # noqa: N802
        model = self.models[request.name]
        answer = service_pb2.ModelMetadataResponse(name=request.name, platform=model.config.platform)
        answer.versions.extend(map(str, model.versions))
        for tensors, side in ((model.config.input, answer.inputs), (model.config.output, answer.outputs)):
            for tensor in tensors:
                side.add(name=tensor.name, datatype=type_of(tensor), shape=full_dims(model.config, tensor))
        return answer

    def ModelConfig(self, request: Any, _: Any) -> Any:  # noqa: N802
        return service_pb2.ModelConfigResponse(config=self.models[request.name].config)

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        arrays = {
            tensor.name: np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(*tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        self.asked.append((request.model_name, arrays))
        try:
            found = self.run(request.model_name, arrays)
        except RefusedError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        for name, array in found.items():
            answer.outputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer


@contextmanager
def serving(repository: Path) -> Iterator[tuple[str, FakeTriton]]:
    """Serve a repository on loopback; give its address and the server."""
    fake = FakeTriton(repository)
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", fake
    finally:
        server.stop(0).wait()
