"""Export the zoo and build each model in FP32, FP16 and INT8: what the other steps run.

A model is one process; as many run at once as the machine has pairs of cores. What lies there already stays.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from step import PRECISIONS, Asked, asked, run_mmtrt, telling

from mmtrt.machine import available_cores
from mmtrt.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "engines" / "recipes"


def main() -> None:
    """Prepare all models, what tells most first: a slow machine leaves out the last."""
    given = asked()
    names = sorted((path.stem for path in RECIPES.glob("*.toml")), key=telling)
    rows: dict[str, Any] = {}
    with ThreadPoolExecutor(max(1, available_cores() // 2)) as pool:
        futures = {pool.submit(_prepare, given, name): name for name in names}
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            given.write({"models": rows})
    sys.exit(0 if all(row["state"] == "done" for row in rows.values()) else 1)


def _prepare(given: Asked, name: str) -> dict[str, Any]:
    folder, start = given.work / name, time.monotonic()
    recipe = load_recipe(RECIPES / f"{name}.toml")
    onnx = folder / f"{name}.onnx"
    if given.left_s < 5:
        return {"state": "no time left"}
    if not onnx.is_file():
        code, _, said = run_mmtrt(["export", recipe.model.source, "-o", str(folder)], limit_s=given.left_s)
        if code != 0:
            return {"state": f"export: exit code {code}", "said": said}
    row: dict[str, Any] = {"state": "done", "built": {}}
    for precision in PRECISIONS:
        if given.left_s < 5:
            return {**row, "state": "no time left"}
        flags = (
            [f"--{precision}", "--coverage", recipe.precision.coverage] if precision == "int8" else [f"--{precision}"]
        )
        code, told, said = run_mmtrt(["build", str(onnx), *flags, "-o", str(folder)], limit_s=given.left_s)
        if code != 0:
            row["state"], row["said"] = f"{precision}: exit code {code}", said
            continue
        row["built"][precision] = {key: told[key] for key in ("flavor", "flavor_version", "engine_bytes", "build_s")}
    return {**row, "wall_s": round(time.monotonic() - start, 1)}


if __name__ == "__main__":
    main()
