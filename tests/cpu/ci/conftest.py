"""What the tests of checks in CI share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmtrt.pipeline.context import Context

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def recorded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test model's source, recorded over its golden samples and the hard cases made of them."""
    from mmtrt.pipeline.recording import RecordRequest, record_reference

    folder = tmp_path_factory.mktemp("recorded") / "tiny.record"
    golden = str(tiny.with_name("tiny.golden"))
    record_reference(Context(), RecordRequest(reference="tiny_fusion:factory", folder=folder, samples=golden))
    return folder
