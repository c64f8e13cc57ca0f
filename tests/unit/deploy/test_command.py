from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from deployments import Doubles, make_bundle, ran

from mmtrt.report.deploying import deploy_rows
from mmtrt.results import DeployResult


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "give a bundle, or --rollback"),
        (("b.mmtrt", "--rollback"), 2, "give a bundle, or --rollback"),
        (("--rollback", "--build-only", "--target", "a"), 2, "does nothing with --build-only, --target"),
        (("b.mmtrt", "--max-p50-ms", "-3"), 2, "'--max-p50-ms'"),
        (("b.mmtrt",), 3, "b.mmtrt"),
        (("--rollback",), 3, "there is no deployment"),
        (("b.mmtrt", "--require-signature"), 4, "no key to know one by"),
    ],
)
def test_what_is_wrong_is_told_with_its_code(
    mmtrt: Callable[..., CompletedProcess[str]], arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = mmtrt("deploy", *arguments, "--to", "DIR", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit_code"]) == (code, code)
    assert told in document["error"]


def test_the_view_tells_what_was_reached(
    deployed: Callable[..., DeployResult], doubles: Doubles, tmp_path: Path
) -> None:
    rows = deploy_rows(deployed(make_bundle(tmp_path / "b")).to_json())
    assert rows["state"] == "deployed"
    assert rows["target"] == "server, fp32"
    assert rows["engine"] == "built, tensorrt 10.3.0, in 1.0 s"
    assert rows["parity"] == "pass over 1 golden samples"
    assert rows["latency"].startswith("p50 1.000 ms")
    assert rows["current"] == "switched"

    row: dict[str, Any] = {"y": {"verdict": "fail", "why": ["sqnr_db is 3.1, at least 20"]}}
    doubles.outcome = ran("fail")
    doubles.outcome.parity["outputs"].update(row)  # type: ignore[attr-defined]
    rows = deploy_rows(deployed(make_bundle(tmp_path / "c", version="2")).to_json())
    assert (rows["state"], rows["current"]) == ("rejected", "as it was")
    assert rows["parity"] == "fail over 1 golden samples\ny: sqnr_db is 3.1, at least 20"
    assert "latency" not in rows

    rows = deploy_rows(deployed(make_bundle(tmp_path / "d", version="3"), until="build").to_json())
    assert rows.keys() == {"state", "bundle", "signed by", "target", "engine", "current"}
