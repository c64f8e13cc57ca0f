"""The command that packs a bundle."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from mmtrt.cli.options import JsonOption, NoCacheOption, QuietOption
from mmtrt.cli.show import Show

__all__ = ["bundle"]


def bundle(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.toml", help="One deployment: see engines/recipes.")],
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="NAME.mmtrt, or NAME.mmtrt/ for a directory.")
    ],
    key: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--sign", metavar="KEY.pem", help="Sign it with this private key."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    no_cache: NoCacheOption = False,
) -> None:
    """Pack what a recipe makes into one bundle that a device verifies, builds, checks and runs."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.recipe import load_recipe

    loaded = load_recipe(recipe)
    from mmtrt.pipeline.bundling import Key, bundle_recipe, bundle_view
    from mmtrt.report.terminal import facts_view

    signer = None
    if key is not None:
        from mmtrt.bundle.signing import sign

        path = key
        signer = Key(name=key.name, sign=lambda manifest: sign(manifest, path))
    result = bundle_recipe(show.context(no_cache=no_cache), loaded, output, signer)
    show.result(result.to_json(), facts_view(bundle_view(result)))
