"""A recipe: one TOML file, one deployment. Frozen; an unknown key is refused, with the nearest known one."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from mmtrt.artifacts import key_of
from mmtrt.errors import RecipeError
from mmtrt.metrics import KINDS, TASK_METRICS
from mmtrt.results import STRESS_KINDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Bench",
    "Bundle",
    "Calibration",
    "Model",
    "Parity",
    "Part",
    "Precision",
    "Recipe",
    "Stored",
    "Target",
    "Triton",
    "load_recipe",
    "resolved",
]

Span = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Model(_Section):
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


class Precision(_Section):
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


class Calibration(_Section):
    """The calibration set: its name or path; without one, that which the export writes beside the model."""

    set: str | None = None
    count: Annotated[int, Field(gt=0)] | None = None


class Parity(_Section):
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
            _check_known("stress", kind, STRESS_KINDS)
        return tuple(kind for kind in STRESS_KINDS if kind in kinds)

    @field_validator("heads")
    @classmethod
    def _kinds(cls, heads: dict[str, str]) -> dict[str, str]:
        for kind in heads.values():
            _check_known("kind of head", kind, KINDS)
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
                _check_known("task metric", name, TASK_METRICS)
        return metrics


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"there is no {what} {name!r}: {hint}")


class Bench(_Section):
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


class Target(_Section):
    """Where the engine will live: a name in engines/targets or a path, and TensorRT's flavour."""

    name: str | None = None
    flavor: Literal["auto", "tensorrt", "tensorrt-rtx"] = "auto"


Stored = Literal["fp32", "fp16", "int8"]


class Triton(_Section):
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


_WIDEST_FIRST: tuple[Stored, ...] = ("fp32", "fp16", "int8")


class Part(_Section):
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
        return min(chain, self.narrowest, key=_WIDEST_FIRST.index)


class Bundle(_Section):
    """What `mmtrt bundle` packs: a version, the machines it is for, and what each of them runs.

    `targets` are names in engines/targets or paths; without any it is the recipe's own. `precision` is what they run,
    unless `precisions` says otherwise for one; without it the narrowest that is built. `golden` is how many golden
    samples are carried at most; `engines` carries those that can be built where the bundle is made.
    `plugins` names what an engine needs beside TensorRT.
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


class Recipe(_Section):
    """One deployment, whole; `parts` is for sources in several parts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    model: Model
    precision: Precision = Precision()
    calibration: Calibration = Calibration()
    parity: Parity = Parity()
    bench: Bench = Bench()
    target: Target = Target()
    parts: dict[str, Part] = {}
    bundle: Bundle = Bundle()
    triton: Triton = Triton()

    @field_validator("bundle")
    @classmethod
    def _built(cls, bundle: Bundle, info: ValidationInfo) -> Bundle:
        for target in bundle.precisions:
            _check_known("target", target, bundle.targets)
        # Absent where it is wrong itself, which is told first.
        precision: Precision | None = info.data.get("precision")
        for told in (bundle.precision, *bundle.precisions.values()):
            if told is not None and precision is not None and told not in precision.build:
                raise ValueError(f"{told} is not built: precision.build is {', '.join(precision.build)}")
        return bundle

    def bundled_precision(self, target: str) -> Stored:
        """Return what a target of the bundle runs."""
        narrowest = max(self.precision.build, key=_WIDEST_FIRST.index)
        return self.bundle.precisions.get(target, self.bundle.precision or narrowest)

    @field_validator("triton")
    @classmethod
    def _served(cls, triton: Triton, info: ValidationInfo) -> Triton:
        precision: Precision | None = info.data.get("precision")
        if triton.precision is not None and precision is not None and triton.precision not in precision.build:
            raise ValueError(f"{triton.precision} is not built: precision.build is {', '.join(precision.build)}")
        target: Target | None = info.data.get("target")
        if triton.backend == "tensorrt" and target is not None and target.flavor == "tensorrt-rtx":
            raise ValueError("Triton runs no engine of TensorRT-RTX, and target.flavor asks for one")
        return triton

    @property
    def served_precision(self) -> Stored:
        """What a Triton server runs: what the recipe says, else the narrowest that is built."""
        narrowest = max(self.precision.build, key=_WIDEST_FIRST.index)
        return self.triton.precision or narrowest

    def part(self, name: str) -> Part:
        """Return what is said of a part; the defaults where nothing is."""
        return self.parts.get(name, Part())

    def precision_of(self, part: str) -> Precision:
        """Return how a part is built: as all are, but for what is said of it."""
        own = self.part(part).model_dump(include={"method", "coverage", "refine", "keep"})
        return self.precision.model_copy(update={name: value for name, value in own.items() if value is not None})

    @property
    def digest(self) -> str:
        """Digest of the resolved recipe, defaults filled in."""
        return key_of(self.model_dump(mode="json"))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; RecipeError names the file, the key and the nearest known one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        beside = [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        hint = f"Did you mean {path.parent / near[0]}?" if near else "Recipes lie in engines/recipes/."
        raise RecipeError(f"there is no recipe {path}", fix=hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"can't read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is no valid TOML: {error}") from error
    try:
        return Recipe.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        raise _readable(path, error) from None


def _readable(path: Path, error: ValidationError) -> RecipeError:
    errors = error.errors()
    # A misspelt key is told before the key that is missing for it.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(_keys(first["loc"][:-1]))
        key = str(first["loc"][-1])
        near = get_close_matches(key, known, n=1)
        fix = f"Did you mean {near[0]!r}?" if near else f"Known here are {', '.join(known)}."
        return RecipeError(f"{path}: unknown key {where!r}", fix=fix)
    if first["type"] == "missing":
        return RecipeError(f"{path}: {where!r} is missing", fix="See engines/recipes/ for complete ones.")
    message = first["msg"].removeprefix("Value error, ")
    return RecipeError(f"{path}: {where!r}: {message}", fix=f"It is {first['input']!r}.")


def _keys(location: tuple[int | str, ...]) -> Iterator[str]:
    section: Any = Recipe
    for part in location:
        # The keys of [parts] are the parts' names, known to the model alone.
        section = Part if section == dict[str, Part] else section.model_fields[str(part)].annotation
    yield from section.model_fields


def resolved(recipe: Recipe) -> Mapping[str, Any]:
    """Return the recipe as JSON data with its digest: what goes into each artifact."""
    return {"digest": recipe.digest, **recipe.model_dump(mode="json")}
