from __future__ import annotations

import sys
from pathlib import Path

# The graphs are shared with the tests that need a GPU.
sys.path.insert(0, str(Path(__file__).parent))
