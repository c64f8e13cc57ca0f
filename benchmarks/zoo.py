"""The whole zoo, one table: each model's recipe, run from export to the verdict.

python benchmarks/zoo.py                        all recipes in engines/recipes, models of the zoo
python benchmarks/zoo.py --only retrieval bev   a few
python benchmarks/zoo.py --readme               the table into benchmarks/README.md as well

Each recipe is `mmtrt run` in a process of its own: what fails there is a row, and the others go on. A row holds what
`mmtrt run --json` told. Exit code 1 where a model was not exported, converted, built and within its budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marked import into_readme

from mmtrt.artifacts import read_json, write_json
from mmtrt.machine import machine
from mmtrt.recipe import load_recipe
from mmtrt.zoo import names

HERE = Path(__file__).parent
RECIPES = HERE.parent / "engines" / "recipes"
RESULTS = HERE / "results" / "cpu-2core" / "zoo.json"
_TIMEOUT_S = 3600


def main() -> None:
    """Run what was asked for, print the table, write the results."""
    options = _parse()
    recipes = _recipes(options.only)
    kept = read_json(options.out)["rows"] if options.only and options.out.is_file() else []
    rows = {row["model"]: row for row in kept}
    for model, recipe in recipes.items():
        print(f"{model} ...", file=sys.stderr, flush=True)
        rows[model] = run(model, recipe, fresh=options.fresh)
        # After each, so that a run that is ended leaves what it has.
        _write(options.out, rows)
    ordered = [rows[name] for name in names() if name in rows]
    print(table(ordered))
    if options.readme:
        into_readme(HERE / "README.md", "zoo", table(ordered))
    failed = [model for model in recipes if rows[model]["verdict"] != "pass"]
    missing = [] if options.only else [name for name in names() if name not in recipes]
    for name in missing:
        print(f"{name} has no recipe", file=sys.stderr)
    sys.exit(1 if failed or missing else 0)


def _write(out: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    ordered = [dict(rows[name]) for name in names() if name in rows]
    write_json(out, {"schema": "mmtrt.benchmark/1", "benchmark": "zoo", "machine": machine(), "rows": ordered})


def _recipes(only: Sequence[str] | None) -> dict[str, Path]:
    """Return the recipe of each model of the zoo that has one, by the model's name."""
    found = {}
    for path in sorted(RECIPES.glob("*.toml")):
        kind, _, name = load_recipe(path).model.source.partition(":")
        if kind == "zoo" and (only is None or name in only):
            found[name] = path
    unknown = set(only or ()) - found.keys()
    if unknown:
        sys.exit(f"no recipe for {', '.join(sorted(unknown))}")
    return found


def run(model: str, recipe: Path, *, fresh: bool) -> dict[str, Any]:
    """Run a recipe in a process of its own; return its row."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mmtrt", "run", str(recipe), "-o", folder, "--json", "--quiet"]
        try:
            done = subprocess.run(
                [*command, *(["--no-cache"] if fresh else [])],
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                cwd=HERE.parent,
            )
        except subprocess.TimeoutExpired:
            return {"model": model, "verdict": "error", "exit_code": None, "error": [f"not done after {_TIMEOUT_S} s"]}
    wall_s = round(time.perf_counter() - start, 1)
    told = json.loads(done.stdout) if done.stdout.strip() else {}
    if "checks" not in told:
        lines = done.stderr.strip().splitlines()[-3:]
        return {"model": model, "verdict": "error", "exit_code": done.returncode, "error": lines, "wall_s": wall_s}
    return {"model": model, **_row(told), "exit_code": done.returncode, "wall_s": wall_s}


def _row(told: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a run's document what the table and a later reader need."""
    checks = {check["candidate"]["precision"]: check for check in told["checks"] if check["outputs"]}
    builds = {build["precision"]: build for build in told["builds"]}
    return {
        "verdict": told["verdict"],
        "cached": told["cached"],
        "onnx_bytes": {precision: build["onnx_bytes"] for precision, build in builds.items()},
        "engine_bytes": {precision: build["engine_bytes"] for precision, build in builds.items()},
        "flavor": next(iter(builds.values()))["flavor"] + " " + next(iter(builds.values()))["flavor_version"],
        "int8": builds.get("int8", {}).get("int8"),
        "ran": {precision: check["candidate"]["runs"] for precision, check in checks.items()},
        "samples": {precision: check["samples"] for precision, check in checks.items()},
        "worst_sqnr_db": {precision: _worst(check) for precision, check in checks.items()},
        "task": {precision: _task(check["outputs"], "task") for precision, check in checks.items()},
        "reference_task": _task(next(iter(checks.values()))["outputs"], "reference_task"),
        "verdicts": {precision: check["verdict"] for precision, check in checks.items()},
        "verified": told["export"]["verified"],
    }


def _worst(check: Mapping[str, Any]) -> float | None:
    """Return the lowest SQNR of a check's outputs in dB; None where all are free of error."""
    values = [output["sqnr_db"] for output in check["outputs"].values() if output["sqnr_db"] is not None]
    return min(values, default=None)


def _task(outputs: Mapping[str, Any], which: str) -> dict[str, float]:
    return {f"{name} {metric}": value for name, row in outputs.items() for metric, value in row[which].items()}


COLUMNS = (
    "model",
    "verdict",
    "task metric",
    "PyTorch",
    "FP16",
    "INT8",
    "FP16 dB",
    "INT8 dB",
    "INT8 MACs",
    "ONNX MB (FP32, INT8)",
    "engine MB (FP32, FP16, INT8)",
    "samples",
    "s",
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the Markdown table: a line for each model and task metric."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        lines.extend(f"| {' | '.join(cells)} |" for cells in _cells(row))
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> list[list[str]]:
    if row["verdict"] == "error":
        return [[row["model"], f"exit code {row['exit_code']}: {' '.join(row['error'])}", *[""] * (len(COLUMNS) - 2)]]
    metrics = list(row["reference_task"]) or [""]
    share = row["int8"]["mac_share"] if row["int8"] else None
    size, engine = row["onnx_bytes"], row["engine_bytes"]
    rest = [
        *(_number(row["worst_sqnr_db"].get(precision)) for precision in ("fp16", "int8")),
        "-" if share is None else f"{share:.1%}",
        ", ".join(f"{size[p] / 1e6:.1f}" for p in ("fp32", "int8") if p in size),
        ", ".join(f"{engine[p] / 1e6:.1f}" for p in ("fp32", "fp16", "int8") if p in engine),
        str(max(row["samples"].values())),
        f"{row['wall_s']:.0f}",
    ]
    lines = []
    for index, metric in enumerate(metrics):
        values = [row["reference_task"], *(row["task"].get(p, {}) for p in ("fp16", "int8"))]
        told = [f"{value[metric]:.2%}" if metric in value else "-" for value in values]
        first = index == 0
        lines.append(
            [
                row["model"] if first else "",
                row["verdict"] if first else "",
                metric or "none: random weights",
                *told,
                *(rest if first else [""] * len(rest)),
            ]
        )
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="pass the cache by, so that all stages are timed")
    parser.add_argument("--readme", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
