"""The command that writes a model repository for NVIDIA Triton."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmtrt.cli.options import JsonOption, NoCacheOption, QuietOption
from mmtrt.cli.show import Show

__all__ = ["triton"]


def triton(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="One deployment: see engines/recipes.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="The model repository; other models in it stay.")
    ],
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Put what a recipe makes into a model repository that NVIDIA Triton serves."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.recipe import load_recipe

    loaded = load_recipe(recipe)
    from mmtrt.pipeline.triton_repository import serve_recipe, triton_view
    from mmtrt.report.terminal import facts_view

    result = serve_recipe(show.context(no_cache=no_cache), loaded, output)
    show.result(result.to_json(), facts_view(triton_view(result)))
