"""`mmtrt deploy`: a bundle becomes what runs on this machine, or is refused."""

# ruff: noqa: FBT002 -- Typer makes flags of boolean parameters

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from mmtrt.cli.options import JsonOption, QuietOption, TextOption
from mmtrt.cli.show import Show
from mmtrt.errors import EXIT_BUDGET, UsageError

if TYPE_CHECKING:
    from mmtrt.bundle.opening import Trust

__all__ = ["deploy"]


def deploy(
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The deployment's directory.")],
    bundle: Annotated[Optional[Path], typer.Argument(metavar="BUNDLE", help="A bundle: a file or a directory.")] = None,  # noqa: UP045
    target: Annotated[TextOption, typer.Option(metavar="T", help="A target of the bundle; else the one that fits.")] = (
        None
    ),
    build_only: Annotated[
        bool, typer.Option("--build-only", help="Build into DIR/cache; run nothing, switch nothing.")
    ] = (False),
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the version before.")] = False,
    require_signature: Annotated[
        bool,
        typer.Option(
            "--require-signature", help="Refuse a bundle that none of the keys signed. A key asks for that too."
        ),
    ] = False,
    public_key: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--public-key", metavar="KEY.pem", help="Whose signature is good; may be repeated."),
    ] = None,
    allow_plugin: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--allow-plugin", metavar="NAME", help="A plugin that a bundle may need; may be repeated."),
    ] = None,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Let in an older version than the one that runs.")
    ] = False,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="Versions to keep beside the current one.")] = 2,
    max_p50_ms: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, metavar="X", help="Refuse an engine whose median latency is above X ms."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Verify a bundle, build its engine here, hold it to the golden samples, and switch to it."""
    show = Show(json=json, quiet=quiet)
    from mmtrt.deploy.deploying import deploy as deploy_bundle
    from mmtrt.deploy.deploying import roll_back
    from mmtrt.deploy.request import DeployRequest
    from mmtrt.report.deploying import deploy_rows
    from mmtrt.report.terminal import facts_view

    trust = _trust(public_key or [], required=require_signature)
    if (bundle is None) != rollback:
        raise UsageError(
            "give a bundle, or --rollback", fix="mmtrt deploy BUNDLE --to DIR, or mmtrt deploy --rollback --to DIR"
        )
    if bundle is None:
        # Whoever says --build-only wants nothing switched.
        _check_no(build_only=build_only, target=target, allow_downgrade=allow_downgrade, max_p50_ms=max_p50_ms)
        result = roll_back(to, trust)
    else:
        request = DeployRequest(
            bundle=bundle,
            directory=to,
            target=target,
            until="build" if build_only else "switch",
            trust=trust,
            plugins=tuple(allow_plugin or ()),
            older="allowed" if allow_downgrade else "refused",
            keep=keep,
            max_p50_ms=max_p50_ms,
            stage=show.stage,
            note=show.note,
        )
        result = deploy_bundle(request)
    document = result.to_json()
    show.result(document, facts_view(deploy_rows(document)))
    if result.state == "rejected":
        raise typer.Exit(EXIT_BUDGET)


def _check_no(**given: object) -> None:
    """Raise UsageError at what a rollback does nothing with."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and value is not False]
    if named:
        raise UsageError(
            f"--rollback goes back to a version as it stands, and does nothing with {', '.join(named)}",
            fix="mmtrt deploy --rollback --to DIR",
        )


def _trust(keys: list[Path], *, required: bool) -> Trust | None:
    if not keys and not required:
        return None
    from mmtrt.bundle.signing import trust

    # Who names a key wants it held: without a signature anybody could have sealed the bundle again.
    verifies: Trust = trust(keys, required or bool(keys))
    return verifies
