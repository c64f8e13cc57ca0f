"""What lies in `inside` runs only where the emulated GPU is: in the child processes of `test_emulated.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

collect_ignore = [] if os.environ.get("MMTRT_EMULATED") == "1" else ["inside"]
