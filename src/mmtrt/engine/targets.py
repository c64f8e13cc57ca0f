"""Targets: what a machine wants of an engine, in `engines/targets/*.toml`."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmtrt.engine.estimate import Gpu
from mmtrt.engine.options import BuildOptions, HardwareCompatibility, Typing
from mmtrt.errors import UsageError
from mmtrt.runtimes.tensorrt_api import FLAVOURS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["Target", "load_target", "target_names"]

_FOLDER = Path("engines/targets")


class Target(BaseModel):
    """A target file; each key but `name`, `description` and `gpu` is a field of `BuildOptions`.

    `gpu` is what estimates of an engine's time are made for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    flavor: str = Field(default="auto", pattern=f"^({'|'.join(('auto', *FLAVOURS))})$")
    workspace_mib: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    compute_capability: str | None = None
    typing: Typing = "strong"
    gpu: Gpu | None = None

    def options(self, *, timing_cache: Path | None = None) -> BuildOptions:
        """Return the options of a build for this target."""
        settings: dict[str, Any] = self.model_dump(exclude={"name", "description", "gpu"})
        return BuildOptions(target=self.name, timing_cache=timing_cache, **settings)


def _folders() -> list[Path]:
    """Return where targets lie: in the current directory, then in the source tree that mmtrt runs from."""
    return [folder for folder in (_FOLDER, Path(__file__).parents[3] / _FOLDER) if folder.is_dir()]


def target_names() -> list[str]:
    """Return the names of the targets that can be loaded by name."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def load_target(reference: str) -> Target:
    """Load a target by its name, or by the path of its file.

    UsageError for an unknown name, with the nearest one, and for a file that is no target.
    """
    path = Path(reference)
    if path.suffix == ".toml":
        return _read(path)
    for folder in _folders():
        if (folder / f"{reference}.toml").is_file():
            return _read(folder / f"{reference}.toml")
    names = target_names()
    near = get_close_matches(reference, names, n=1, cutoff=0.4)
    fix = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(names) or 'none'}; a path ends in .toml."
    raise UsageError(f"there is no target {reference!r}", fix=fix)


def _read(path: Path) -> Target:
    try:
        return Target.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"can't read the target {path}: {error.strerror}", fix="Check the path.") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the target {path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        near = get_close_matches(key, Target.model_fields, n=1)
        known = f"Did you mean {near[0]!r}?" if near else f"The keys are {', '.join(Target.model_fields)}."
        fix = known if first["type"] == "extra_forbidden" else f"It is {first['input']!r} now."
        raise UsageError(f"the target {path}: {key}: {first['msg']}", fix=fix) from error
