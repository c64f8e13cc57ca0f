"""Property tests: the same examples on each machine, however slow it is; no store of failed ones."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("unit")
