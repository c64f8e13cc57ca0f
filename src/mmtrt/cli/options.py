"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = [
    "CalibOption",
    "CheckpointOption",
    "JsonOption",
    "ModelArgument",
    "NoCacheOption",
    "OutOption",
    "QuietOption",
    "TextOption",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="Pass the cache by.")]
OutOption = Annotated[Optional[Path], typer.Option("-o", "--output", metavar="DIR", help="Folder for what is made.")]  # noqa: UP045 -- Typer on 3.10
ModelArgument = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="An ONNX file.")]
CalibOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--calib", metavar="SET", help="A path, a set's name, package.module:function, or random."),
]
CheckpointOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(metavar="FILE", help="The source's trained weights: .safetensors, or a state dict as .pt or .pth."),
]
TextOption = Optional[str]  # noqa: UP045
