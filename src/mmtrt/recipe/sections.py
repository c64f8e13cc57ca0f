"""The sections of a recipe, each frozen; an unknown key is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmtrt.metrics import KINDS, TASK_METRICS
from mmtrt.results import STRESS_KINDS

__all__ = [
    "WIDEST_FIRST",
    "Bench",
    "Bundle",
    "Calibration",
    "Model",
    "Parity",
    "Part",
    "Precision",
    "Section",
    "Stored",
    "Target",
    "Triton",
    "check_known",
]

Span = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class Section(BaseModel):
    """What all have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Model(Section):
    """What is exported: `zoo:NAME` or `package.module:factory`, and the ranges of its dynamic sizes.

    `checkpoint` is a file of trained weights for it.
    """

    source: str
    checkpoint: Path | None = None
    opset: Annotated[int, Field(ge=17, le=22)] = 18
    ranges: dict[str, Span] = {}

    @field_validator("ranges")
    @classmethod
    def _ordered(cls, ranges: dict[str, Span]) -> dict[str, Span]:
        for name, span in ranges.items():
            if not span[0] <= span[1] <= span[2]:
                raise ValueError(f"the range of {name!r} is {list(span)}: give [min, opt, max] in this order")
        return ranges


class Precision(Section):
    """The precisions to build; for INT8 the calibration method, what is covered and refined, and what is kept out.

    `coverage` "engine" makes INT8 what the engine gains by, "wide" all weighted layers but the last, "full" attention's
    products and the last layers too, "all" also the convolution on the image; "auto" is "engine" where the builder
    tells kernels, else "wide". `refine` changes weights and biases.
    """

    build: Annotated[tuple[Literal["fp32", "fp16", "int8"], ...], Field(min_length=1)] = ("fp32", "fp16", "int8")
    method: Literal["auto", "entropy", "max", "mse", "percentile"] = "auto"
    coverage: Literal["auto", "engine", "wide", "full", "all"] = "auto"
    refine: tuple[Literal["balance", "compensate", "round", "bias"], ...] = ("balance", "round", "bias")
    keep: tuple[str, ...] = ()


class Calibration(Section):
    """The calibration set: its name or path; without one, that which the export writes beside the model."""

    set: str | None = None
    count: Annotated[int, Field(gt=0)] | None = None


class Parity(Section):
    """The parity set, what each head is and its task metrics, and the budget per precision: `"answer:sqnr_db" = 20`.

    `heads` maps an output to its kind, one of `mmtrt.metrics.KINDS`: `answer = "classes"`. `stress` names the kinds of
    hard cases that are run beside the set; a budget's `"masked/answer:sqnr_db"` is for one.
    """

    set: str | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    heads: dict[str, str] = {}
    metrics: dict[str, tuple[str, ...]] = {}
    budget: dict[Literal["fp32", "fp16", "int8"], dict[str, Finite]] = {}
    stress: tuple[str, ...] = STRESS_KINDS

    @field_validator("stress")
    @classmethod
    def _stress_kinds(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        for kind in kinds:
            check_known("stress", kind, STRESS_KINDS)
        return tuple(kind for kind in STRESS_KINDS if kind in kinds)

    @field_validator("heads")
    @classmethod
    def _kinds(cls, heads: dict[str, str]) -> dict[str, str]:
        for kind in heads.values():
            check_known("kind of head", kind, KINDS)
        return heads

    @field_validator("metrics", mode="before")
    @classmethod
    def _listed(cls, metrics: Any) -> Any:
        if not isinstance(metrics, Mapping):
            return metrics
        return {head: (names,) if isinstance(names, str) else names for head, names in metrics.items()}

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for names in metrics.values():
            for name in names:
                check_known("task metric", name, TASK_METRICS)
        return metrics


def check_known(what: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError for a name that is not known, with the nearest one."""
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"there is no {what} {name!r}: {hint}")


class Bench(Section):
    """How long each file is measured, in seconds, and at which sizes; sizes not named are the usual ones.

    `sweep`, `scenario` and `against` ask for one measurement more, as `mmtrt bench` makes it: of the engines where they
    run, else of the ONNX files.
    """

    duration_s: Annotated[Finite, Field(gt=0)] = 3.0
    sizes: dict[str, Annotated[int, Field(gt=0)]] = {}
    sweep: dict[str, Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]] = {}
    scenario: Literal["latency", "single-stream", "multi-stream", "offline"] = "latency"
    against: tuple[Literal["torch", "torch-compile"], ...] = ()

    @property
    def more(self) -> bool:
        """Whether one more measurement is asked for."""
        return bool(self.sweep or self.against) or self.scenario != "latency"

    @field_validator("sweep", "against")
    @classmethod
    def _once(cls, told: Any) -> Any:
        for sizes in told.values() if isinstance(told, dict) else [told]:
            if len(set(sizes)) < len(sizes):
                raise ValueError("something is named twice")
        return told


class Target(Section):
    """Where the engine will live: a name in engines/targets or a path, and TensorRT's flavour."""

    name: str | None = None
    flavor: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"


Stored = Literal["fp32", "fp16", "int8"]


class Triton(Section):
    """How an NVIDIA Triton server runs the model, for `mmtrt triton`.

    `precision` is the narrowest that is built unless it is said. `backend` "auto" serves the TensorRT engine where
    TensorRT built one, else the ONNX; `accelerator` "tensorrt" lets the server build an engine of that, kept under its
    folder `engine_cache`. `instances` run on each GPU, or on the CPU where `kind` is "cpu". Requests wait at most
    `max_queue_delay_us` to become a batch, of `preferred_batch` sizes best. `version` is the model's number in the
    repository, of which the newest `keep` are served. `cuda_graphs` "auto" records them where only the batch changes.
    `warm_up` golden samples are run before the model is ready, `load` are given to the load generator. Without
    `ensemble` the parts of a model in several are written alone.
    """

    precision: Literal["fp32", "fp16", "int8"] | None = None
    backend: Literal["auto", "tensorrt", "onnx"] = "auto"
    accelerator: Literal["none", "tensorrt"] = "none"
    engine_cache: Annotated[str, Field(min_length=1)] | None = None
    instances: Annotated[int, Field(ge=1, le=1000)] = 1
    kind: Literal["auto", "gpu", "cpu"] = "auto"
    preferred_batch: tuple[Annotated[int, Field(gt=0)], ...] = ()
    max_queue_delay_us: Annotated[int, Field(ge=0, lt=2**63)] = 0
    version: Annotated[int, Field(ge=1, lt=2**31)] = 1
    keep: Annotated[int, Field(ge=1, lt=2**31)] = 1
    cuda_graphs: Literal["auto", "always", "never"] = "auto"
    warm_up: Annotated[int, Field(ge=0, le=1000)] = 2
    load: Annotated[int, Field(ge=1, le=1000)] = 16
    ensemble: bool = True

    @model_validator(mode="after")
    def _agree(self) -> Triton:
        if len(set(self.preferred_batch)) < len(self.preferred_batch):
            raise ValueError("preferred_batch names a size twice")
        if self.accelerator != "none" and self.backend == "tensorrt":
            raise ValueError("accelerator is for an ONNX, and backend is 'tensorrt'")
        if self.engine_cache is not None and self.accelerator == "none":
            raise ValueError("engine_cache is of accelerator = 'tensorrt', which is not said")
        if self.kind == "cpu" and "tensorrt" in {self.backend, self.accelerator}:
            raise ValueError("TensorRT runs on GPUs, and kind is 'cpu'")
        return self


WIDEST_FIRST: tuple[Stored, ...] = ("fp32", "fp16", "int8")
"""The narrowest of what is built is the last one of these."""


class Part(Section):
    """What holds for one part of a model in several; what is not said is as for the whole.

    `narrowest` is the least precision that the part may have: with "fp16" it stays FP16 where the others are INT8.
    `budget` is that of the part alone, against its own module on the same inputs.
    """

    narrowest: Stored = "int8"
    method: Literal["auto", "entropy", "max", "mse", "percentile"] | None = None
    coverage: Literal["auto", "engine", "wide", "full", "all"] | None = None
    refine: tuple[Literal["balance", "compensate", "round", "bias"], ...] | None = None
    keep: tuple[str, ...] | None = None
    budget: dict[Stored, dict[str, Finite]] = {}

    def precision_in(self, chain: Stored) -> Stored:
        """Return the part's precision where the others are built in `chain`."""
        return min(chain, self.narrowest, key=WIDEST_FIRST.index)


class Bundle(Section):
    """What `mmtrt bundle` packs: a version, the machines it is for, and what each of them runs.

    `targets` are names in engines/targets or paths; without any it is the recipe's own. `precision` is what they run,
    unless `precisions` says otherwise for one; without it the narrowest that is built. `golden` is how many golden
    samples are carried at most; `engines` carries those that can be built where the bundle is made.
    `plugins` names the operators that are TensorRT plugins.
    """

    version: Annotated[str, Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,3}$")] = "1.0.0"
    targets: tuple[str, ...] = ()
    precision: Stored | None = None
    precisions: dict[str, Stored] = {}
    golden: Annotated[int, Field(gt=0, le=1000)] = 16
    engines: bool = True
    plugins: tuple[str, ...] = ()

    @field_validator("targets")
    @classmethod
    def _once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError("a target is named twice")
        return targets
