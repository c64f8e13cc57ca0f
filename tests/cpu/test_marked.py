"""Generated tables in the benchmarks' README: whole, between their marks, and what the results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_what_cannot_be_written_leaves_the_file_whole(tmp_path: Path) -> None:
    from marked import into_readme

    path = tmp_path / "README.md"
    path.write_text("before\n<!-- rows: begin -->\n\nold\n\n<!-- rows: end -->\nafter\n")
    with pytest.raises(UnicodeEncodeError):
        into_readme(path, "rows", "\ud800")
    assert "old" in path.read_text()
    into_readme(path, "rows", "new")
    assert path.read_text() == "before\n<!-- rows: begin -->\n\nnew\n\n<!-- rows: end -->\nafter\n"
    assert [each.name for each in tmp_path.iterdir()] == ["README.md"]


def test_the_families_table_is_that_of_their_results(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import families
    from marked import into_readme

    rows = json.loads((BENCHMARKS / "results" / "cpu-2core" / "families.json").read_text(encoding="utf-8"))["rows"]
    shown = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    path = tmp_path / "README.md"
    path.write_text(shown, encoding="utf-8")
    into_readme(path, "families", families.table(rows).rstrip())
    assert path.read_text(encoding="utf-8") == shown
