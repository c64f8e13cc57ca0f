"""The fuzzer's bundle is the tests' as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3] / "benchmarks")]

# Where this is lies on the path only now.
from fuzz_base import contents, manifest_of, packed  # noqa: E402


@pytest.fixture(params=["file", "directory"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A bundle without a signature, in each of its forms."""
    files = contents()
    return packed(tmp_path / "vqa.mmtrt", files, manifest_of(files), tar=request.param == "file")
