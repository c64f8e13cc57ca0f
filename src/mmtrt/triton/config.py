"""A model's `config.pbtxt`: what it takes and gives, how requests become batches, where it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmtrt.errors import RecipeError
from mmtrt.recipe import Triton
from mmtrt.tensors import ModelSpec, ShapeRange, TensorSpec, format_shape
from mmtrt.triton.pbtxt import Message, Value, Word
from mmtrt.triton.shapes import Batching, batching, data_type, dims, row_of
from mmtrt.triton.warm_up import WarmUp

__all__ = [
    "FILENAMES",
    "PLATFORMS",
    "Backend",
    "Served",
    "batch_sizes",
    "model_config",
    "tensor_fields",
    "version_policy",
]

Backend = Literal["tensorrt", "onnxruntime"]
FILENAMES: Mapping[Backend, str] = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}
PLATFORMS: Mapping[Backend, str] = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model as it is served; `labels` maps an output to its file of class names."""

    name: str
    backend: Backend
    spec: ModelSpec
    settings: Triton = field(default_factory=Triton)
    labels: Mapping[str, str] = field(default_factory=dict)
    warm_up: Sequence[WarmUp] = ()


def model_config(served: Served) -> Message:
    """Return the configuration; RecipeError where the settings don't fit the model."""
    batch = batching(served.spec)
    _check_preferred(served, batch)
    return Message(
        (
            ("name", served.name),
            ("platform", PLATFORMS[served.backend]),
            ("backend", served.backend),
            ("default_model_filename", FILENAMES[served.backend]),
            ("max_batch_size", batch.largest),
            *_tensors(served, batch),
            version_policy(served.settings.keep),
            *_dynamic_batching(served, batch),
            ("instance_group", Message((("count", served.settings.instances), ("kind", Word(_kind(served)))))),
            *_optimization(served, batch),
            *(("model_warmup", one.message()) for one in served.warm_up),
        )
    )


def _tensors(served: Served, batch: Batching) -> Iterator[tuple[str, Message]]:
    for side, tensors in (("input", served.spec.inputs), ("output", served.spec.outputs)):
        for tensor in tensors:
            # A tensor with the batch axis alone: requests have a second one, of size 1.
            alone = () if row_of(tensor, batch) else (("reshape", Message()),)
            label = served.labels.get(tensor.name) if side == "output" else None
            named = (("label_filename", label),) if label else ()
            yield side, Message((*tensor_fields(tensor, batch), *alone, *named))


def tensor_fields(tensor: TensorSpec, batch: Batching) -> tuple[tuple[str, Value], ...]:
    """Return a tensor's name, Triton's type and `dims`; ModelError where Triton has no such type."""
    return (
        ("name", tensor.name),
        ("data_type", Word(f"TYPE_{data_type(tensor)}")),
        ("dims", dims(tensor, batch)),
    )


def version_policy(keep: int) -> tuple[str, Message]:
    """Serve the newest `keep` versions that lie in the repository."""
    return "version_policy", Message((("latest", Message((("num_versions", keep),))),))


def batch_sizes(settings: Triton, batch: Batching) -> list[int]:
    """Return the batches that are run before the model is ready: one request, the preferred sizes, the largest."""
    return sorted({1, *settings.preferred_batch, batch.largest}) if batch else [1]


def _check_preferred(served: Served, batch: Batching) -> None:
    for size in served.settings.preferred_batch:
        if not batch:
            raise RecipeError(
                f"preferred_batch is given, and requests to {served.name} can't be put together: {batch.why}",
                fix="Leave it out of [triton], or export the model with a batch that ranges from 1.",
            )
        if size > batch.largest:
            raise RecipeError(
                f"preferred_batch has {size}, and {served.name} takes at most {batch.largest}",
                fix="Widen the range of the batch in [model.ranges], or leave that size out.",
            )


def _dynamic_batching(served: Served, batch: Batching) -> Iterator[tuple[str, Message]]:
    if batch.largest > 1:
        delay = served.settings.max_queue_delay_us
        yield (
            "dynamic_batching",
            Message(
                (
                    ("preferred_batch_size", sorted(served.settings.preferred_batch)),
                    ("max_queue_delay_microseconds", delay),
                )
            ),
        )


def _kind(served: Served) -> str:
    needs_gpu = served.backend == "tensorrt" or served.settings.accelerator == "tensorrt"
    if needs_gpu and served.settings.kind == "cpu":
        raise RecipeError(
            f"{served.name} is a TensorRT engine, and kind is 'cpu'",
            fix='Say backend = "onnx" in [triton], or leave kind out.',
        )
    kind = "gpu" if needs_gpu else served.settings.kind
    return f"KIND_{kind.upper()}"


# ------------------------------------------------------------------------------------------------ optimisation


def _optimization(served: Served, batch: Batching) -> Iterator[tuple[str, Message]]:
    if served.backend == "tensorrt":
        specs = tuple(("graph_spec", spec) for spec in _graph_specs(served, batch))
        if specs:
            yield "optimization", Message((("cuda", Message((("graphs", True), *specs))),))
    elif served.settings.accelerator == "tensorrt":
        accelerator = Message((("name", "tensorrt"), *_parameters(served)))
        yield (
            "optimization",
            Message((("execution_accelerators", Message((("gpu_execution_accelerator", accelerator),))),)),
        )


def _graph_specs(served: Served, batch: Batching) -> Iterator[Message]:
    """Yield a CUDA graph for each batch size, at the usual shapes: it serves requests of exactly these shapes."""
    rows = {tensor.name: row_of(tensor, batch) for tensor in served.spec.inputs}
    wanted = served.settings.cuda_graphs
    changes = any(isinstance(dim, str) for row in rows.values() for dim in row)
    if wanted == "never" or (wanted == "auto" and changes) or not all(rows.values()):
        return
    usual = {name: span.opt[len(span.opt) - len(rows[name]) :] for name, span in served.spec.profile().items()}
    for size in batch_sizes(served.settings, batch):
        yield Message(
            (
                ("batch_size", size if batch else 0),
                *(
                    ("input", Message((("key", name), ("value", Message((("dim", shape),))))))
                    for name, shape in usual.items()
                ),
            )
        )


def _parameters(served: Served) -> Iterator[tuple[str, Message]]:
    """Yield the accelerator's parameters: the model's profile, without which each new shape builds an engine anew.

    `precision_mode` is left out: ONNX Runtime then builds a strongly typed network, which has the ONNX's own types.
    """
    told: dict[str, str] = {}
    profile = served.spec.dynamic_profile()
    # Its own grammar has no quotes: names with a colon or a comma can't be said in it.
    if profile and not any(set(":,") & set(name) for name in profile):
        told |= {
            f"trt_profile_{end}_shapes": ",".join(f"{name}:{_shape(span, end)}" for name, span in profile.items())
            for end in ("min", "opt", "max")
        }
    if served.settings.engine_cache is not None:
        told |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": served.settings.engine_cache}
    for key, value in told.items():
        yield "parameters", Message((("key", key), ("value", value)))


def _shape(span: ShapeRange, end: str) -> str:
    shapes = {"min": span.min, "opt": span.opt, "max": span.max}
    return format_shape(shapes[end])
