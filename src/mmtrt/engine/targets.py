"""Targets: what a machine wants of an engine, in `engines/targets/*.toml`."""

from __future__ import annotations

import sys
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmtrt.engine.estimate import Gpu
from mmtrt.engine.options import BuildOptions, HardwareCompatibility, Typing
from mmtrt.errors import UsageError
from mmtrt.runtimes.tensorrt_api import FLAVOURS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BoardName = Literal["orin-nano", "orin-nx", "agx-orin", "thor"]

__all__ = ["BoardName", "Target", "load_target", "target_names"]

_FOLDER = Path("engines/targets")
_INSTALLED = Path(__file__).with_name("target_files")
"""Where the wheel has them."""


class Target(BaseModel):
    """A target file: the builder's settings, which are fields of `BuildOptions`, and the machine that they are for.

    `board` is the family of board and `jetpack` the releases that the settings were made for; `gpu_capability` is the
    compute capability that the GPU must have (`8.7`), and `memory_mib` how much memory must be free, in MiB.
    `dla_cores` is how many DLA cores the board has, of which `dla_core` is built for. `power_mode` is the name of
    nvpmodel's mode, or `best`; `clocks` are `held` where measurements want `jetson_clocks`. `plugins` are those that a
    bundle may name. `gpu` is what estimates of an engine's time are made for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str
    flavor: str = Field(default="auto", pattern=f"^({'|'.join(('auto', *FLAVOURS))})$")
    workspace_mib: int | None = Field(default=None, ge=1, le=1 << 24)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    compute_capability: str | None = None
    typing: Typing = "strong"
    dla_core: int | None = Field(default=None, ge=0)
    gpu_fallback: bool = True
    board: BoardName | None = None
    jetpack: tuple[Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")], ...] = ()
    gpu_capability: str | None = Field(default=None, pattern=r"^\d+\.\d+$")
    memory_mib: int | None = Field(default=None, ge=1)
    dla_cores: int = Field(default=0, ge=0)
    power_mode: str | None = Field(default=None, min_length=1)
    clocks: Literal["any", "held"] = "any"
    plugins: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    gpu: Gpu | None = None

    @model_validator(mode="after")
    def _fits(self) -> Target:
        if self.dla_core is not None and self.dla_core >= self.dla_cores:
            raise ValueError(f"dla_core is {self.dla_core}, and dla_cores says that there are {self.dla_cores}")
        return self

    def options(self, *, timing_cache: Path | None = None) -> BuildOptions:
        """Return the options of a build for this target."""
        named = {setting.name for setting in fields(BuildOptions)}
        settings: dict[str, Any] = self.model_dump(include=named & set(Target.model_fields))
        return BuildOptions(target=self.name, timing_cache=timing_cache, **settings)


def _folders() -> list[Path]:
    """Return where targets lie: in the current directory, then in the source tree that mmtrt runs from, or with it."""
    return [folder for folder in (_FOLDER, Path(__file__).parents[3] / _FOLDER, _INSTALLED) if folder.is_dir()]


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
        where = f"{key}: " if key else ""
        raise UsageError(f"the target {path}: {where}{first['msg']}", fix=fix) from error
