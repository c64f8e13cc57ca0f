"""Engines against PyTorch, eager and compiled, and INT8 against FP16: `mmtrt bench`, at batch 1 and 16."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from step import FIRST, Asked, asked, run_mmtrt

BATCHES = "1,16"
DURATION_S = 0.5


def main() -> None:
    """Measure what tells most first, and with `torch.compile` only when all of a group have run without.

    Compiling costs most of the time, and may take all that is left: a call that is ended leaves nothing.
    """
    given = asked()
    rows: dict[str, Any] = {}
    found = {model: engines for model, engines in given.engines("fp16", "int8").items() if "fp16" in engines}
    has_gpu = _torch_has_a_gpu()
    groups = [[name for name in found if name in FIRST], [name for name in found if name not in FIRST]]
    for names in groups:
        for against in (["torch"], ["torch-compile"]) if has_gpu else ([],):
            for name in names:
                if given.left_s > 10:
                    compiled = "torch-compile" in against
                    label = f"{name}, compiled" if compiled else name
                    rows[label] = _measure(given, name, found[name], against, layers=not compiled)
                    given.write({"rows": rows, "torch_has_a_gpu": has_gpu})
    sys.exit(0 if rows and all("results" in row for row in rows.values()) else 1)


def _measure(given: Asked, model: str, engines: dict[str, Path], against: list[str], *, layers: bool) -> dict[str, Any]:
    files = [str(engines[precision]) for precision in ("fp16", "int8") if precision in engines]
    arguments = ["bench", *files, "--sweep", f"batch={BATCHES}", "--duration", str(DURATION_S)]
    for kind in against:
        arguments += ["--against", kind, "--source", f"zoo:{model}"]
    code, told, said = run_mmtrt([*arguments, *(["--layers"] if layers else [])], limit_s=given.left_s)
    if "results" not in told:
        return {"exit_code": code, "said": said}
    return {"exit_code": code, "results": told["results"], "not_run": told.get("not_run")}


def _torch_has_a_gpu() -> bool:
    """Tell whether PyTorch can stand beside an engine: its times on a CPU would say nothing of it."""
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()
