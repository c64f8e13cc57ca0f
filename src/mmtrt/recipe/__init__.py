"""A recipe: one TOML file, one deployment. Frozen; an unknown key is refused, with the nearest known one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from mmtrt.artifacts import key_of
from mmtrt.errors import RecipeError
from mmtrt.recipe.sections import (
    WIDEST_FIRST,
    Bench,
    Bundle,
    Calibration,
    Model,
    Parity,
    Part,
    Precision,
    Section,
    Stored,
    Target,
    Triton,
    check_known,
)

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


class Recipe(Section):
    """One deployment, whole; `parts` is for sources in several parts."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    model: Model
    precision: Precision = Precision()
    calibration: Calibration = Calibration()
    parity: Parity = Parity()
    bench: Bench = Bench()
    target: Target = Target()
    parts: dict[str, Part] = Field(default_factory=dict)
    bundle: Bundle = Bundle()
    triton: Triton = Triton()

    @field_validator("bundle")
    @classmethod
    def _built(cls, bundle: Bundle, info: ValidationInfo) -> Bundle:
        for target in bundle.precisions:
            check_known("target", target, bundle.targets)
        # Absent where it is wrong itself, which is told first.
        precision: Precision | None = info.data.get("precision")
        for told in (bundle.precision, *bundle.precisions.values()):
            if told is not None and precision is not None and told not in precision.build:
                raise ValueError(f"{told} is not built: precision.build is {', '.join(precision.build)}")
        return bundle

    def bundled_precision(self, target: str) -> Stored:
        """Return what a target of the bundle runs."""
        narrowest = max(self.precision.build, key=WIDEST_FIRST.index)
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
        narrowest = max(self.precision.build, key=WIDEST_FIRST.index)
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
