"""What TensorRT's parser says of a model: asked at once, without a build, in a process that may crash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmtrt.engine.builder import Refusal, parse
from mmtrt.engine.flavours import choose
from mmtrt.isolation import run_isolated

__all__ = ["Parsed", "parse_model"]

_LIMIT_S = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """What a parser, by name and version, refused of a model; nothing where it takes all of it."""

    parser: str
    refusals: tuple[Refusal, ...]


def parse_model(onnx: Path) -> Parsed:
    """Parse a model with the TensorRT that would build it; nothing is built.

    MachineError where there is none here, CrashError where the parser takes its process with it.
    """
    return run_isolated(_parsed, onnx.absolute(), what="TensorRT's parser", time_limit_s=_LIMIT_S)


def _parsed(onnx: Path) -> Parsed:
    flavour = choose()
    return Parsed(parser=str(flavour), refusals=parse(onnx, flavour.name))
