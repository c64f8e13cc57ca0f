"""Each engine against PyTorch, over samples and hard cases: `mmtrt check`, on the engine itself."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from step import PRECISIONS, Asked, asked, run_mmtrt

from mmtrt.machine import available_cores

SAMPLES = 64


def main() -> None:
    """Check each engine that `prepare` left, FP16 and INT8 before FP32; several at once, since nothing is timed."""
    given = asked()
    rows: dict[str, Any] = {}
    found = given.engines()
    jobs = [(model, one, str(row[one])) for one in PRECISIONS for model, row in found.items() if one in row]
    with ThreadPoolExecutor(max(1, available_cores() // 4)) as pool:
        futures = {pool.submit(_check, given, model, engine): f"{model} {one}" for model, one, engine in jobs}
        for future in as_completed(futures):
            rows[futures[future]] = future.result()
            given.write({"checks": rows})
    sys.exit(0 if all(row["verdict"] == "pass" for row in rows.values()) else 1)


def _check(given: Asked, model: str, engine: str) -> dict[str, Any]:
    if given.left_s < 5:
        return {"verdict": "no time left"}
    arguments = ["check", engine, "--against", f"zoo:{model}", "--count", str(SAMPLES)]
    code, told, said = run_mmtrt(arguments, limit_s=given.left_s)
    if "outputs" not in told:
        return {"verdict": "error", "exit_code": code, "said": said}
    hard = told.get("stress", [])
    return {
        "verdict": told["verdict"],
        "exit_code": code,
        "runs": told["candidate"]["runs"],
        "samples": told["samples"],
        "worst_sqnr_db": min(
            (o["sqnr_db"] for o in told["outputs"].values() if o["sqnr_db"] is not None), default=None
        ),
        "hard_cases": len(hard),
        "failed_cases": [f"{case['kind']}: {case['name']}" for case in hard if case["verdict"] == "fail"],
    }


if __name__ == "__main__":
    main()
