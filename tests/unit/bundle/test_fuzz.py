"""The fuzzer's share of a test run, and that it finds what is there to be found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_bundles import fuzz
from fuzz_mutations import KINDS

from mmtrt.bundle import opening, reading
from mmtrt.bundle.manifest import Entry
from mmtrt.bundle.opening import Trust
from mmtrt.bundle.reading import Member

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "fuzz_bundles.py"
SEED = 7  # a day that fails must fail again


def test_attacks_by_chance_are_refused(tmp_path: Path) -> None:
    found = fuzz(tmp_path, seed=SEED, seconds=60)
    assert found.findings == [], f"seed {SEED}"
    assert found.cases > 2 * len(KINDS)
    assert {kind for kind, _ in found.outcomes} == set(KINDS)


def kinds_found(folder: Path, *only: str) -> set[str]:
    folder.mkdir(exist_ok=True)
    found = fuzz(folder, seed=SEED, seconds=60, cases=range(25), only=only)
    return {finding.partition(",")[0] for finding in found.findings}


def test_an_outer_digest_that_is_not_held_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Agreeing(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    told = reading._told
    monkeypatch.setattr(reading, "_told", lambda start: Agreeing(told(start)))
    assert "flip-region" in kinds_found(tmp_path, "flip-region")


def test_a_digest_of_the_manifest_that_is_not_held_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def any_bytes(path: Path, member: Member, entry: Entry) -> Iterator[bytes]:
        return member.chunks

    monkeypatch.setattr(opening, "_right", any_bytes)
    assert "folder-reseal" in kinds_found(tmp_path, "folder-reseal")


def test_a_signer_that_is_not_asked_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = opening._opened

    def unasked(path: Path, trust: Trust | None) -> object:
        return opened(path, None if trust is None else lambda _: "anybody")

    monkeypatch.setattr(opening, "_opened", unasked)
    assert kinds_found(tmp_path, "remade") == {"remade"}


def test_an_error_that_is_a_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: Any, what: str) -> object:
        return data.no_such_thing

    monkeypatch.setattr(opening, "parse_manifest", broken)
    assert kinds_found(tmp_path, "structure") == {"structure"}


def test_a_file_outside_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = opening.parse_manifest

    def leaking(data: bytes, what: str) -> object:
        (tmp_path / "outside").touch()
        return parse(data, what)

    monkeypatch.setattr(opening, "parse_manifest", leaking)
    assert kinds_found(tmp_path, "remade") == {"remade"}


def test_the_command_says_what_it_did_and_makes_a_case_again() -> None:
    command = [sys.executable, str(SCRIPT), "--case", "5", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 cases in" in done.stdout
    assert "no findings" in done.stdout
