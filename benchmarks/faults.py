"""Random faults in the graphs of trained models, and correct builds: what the gate catches, and what it lets pass.

    python benchmarks/faults.py [--count 250] [--seed 0] [--only MODEL...] [--readme]
    python benchmarks/faults.py --correct [--only MODEL...] [--readme]

A fault is drawn by its seed and its number: a model of the zoo, a precision, a kind, a place. It is measured twice.
First without mmtrt's metrics: plain ONNX Runtime and numpy say whether any output's SQNR over the samples is below
its budget: the default of the precision, or 12 dB less than what the correct build reached where that is more. Then
`mmtrt check` of the file against the FP32 ONNX, with its defaults. Reported are the share of the first that the gate
refused, and the share of the others that it let pass. A graph that ONNX Runtime refuses to load or to run counts
apart.

`--correct` builds models of the zoo and of transformers in FP16 and INT8 and checks each: none may fail.

Each row runs in a process of its own with a time limit; results are written after each, and rows that are there are
not run again (`--fresh` runs all, on models that are exported and converted again).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fault_builds import FAMILIES, LIMIT_S, MODELS, built, samples_of, work_folder
from fault_kinds import KINDS, plant
from marked import into_readme

from mmtrt.artifacts import StageCache, read_json, write_json
from mmtrt.errors import MmtrtError
from mmtrt.isolation import run_isolated
from mmtrt.machine import machine
from mmtrt.onnx_files import metadata_of, model_spec
from mmtrt.parity.budget import default_budget
from mmtrt.pipeline.checking import CheckRequest, check_files
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.reached import MARGIN_DB
from mmtrt.samples import batches, checked, open_set
from mmtrt.zoo import TRAINED

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "cpu-2core" / "faults.json"
PRECISIONS = ("fp32", "fp16", "int8")

Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------ measured without us


def independent(reference: Path, candidate: Path) -> dict[str, float] | str:
    """Return each output's SQNR in dB over the samples, or why ONNX Runtime refuses; -inf where it is not a number."""
    try:
        sides = [_session(path) for path in (reference, candidate)]
    except Exception as error:  # noqa: BLE001 -- whatever it raises, it refuses
        return f"load: {_first_line(error)}"
    names = [output.name for output in sides[0].get_outputs()]
    taken = {value.name for value in sides[0].get_inputs()}
    signal, noise = np.zeros(len(names)), np.zeros(len(names))
    spec = model_spec(onnx.load(str(reference), load_external_data=False))
    for batch in batches(checked(open_set(samples_of(reference)), spec), spec, size=32):
        feeds = {name: array for name, array in batch.feeds.items() if name in taken}
        told = sides[0].run(names, feeds)
        try:
            got = sides[1].run(names, feeds)
        except Exception as error:  # noqa: BLE001
            return f"run: {_first_line(error)}"
        for index, (one, other) in enumerate(zip(told, got, strict=True)):
            if one.shape != other.shape:
                return f"run: {names[index]} has shape {other.shape}, not {one.shape}"
            one, other = one.astype(np.float64), other.astype(np.float64)  # noqa: PLW2901
            # What a mask fills with, -3.4e38, is no signal.
            known = np.isfinite(one) & (np.abs(one) < 1e30)
            both = known & np.isfinite(other)
            signal[index] += float((one[known] ** 2).sum())
            noise[index] += float(((one[both] - other[both]) ** 2).sum()) if (both == known).all() else np.inf
    return {name: _decibels(*sums) for name, *sums in zip(names, signal, noise, strict=True)}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal > 0 and np.isfinite(noise) else -np.inf


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# ------------------------------------------------------------------------------------------------------------ the rows


def fault_row(number: int, seed: int, models: Sequence[str]) -> Row:
    """Plant fault `number`, measure it, and ask the gate."""
    rng = np.random.default_rng([seed, number])
    model, precision = models[number % len(models)], PRECISIONS[number // len(models) % len(PRECISIONS)]
    told: Row = {"number": number, "seed": seed, "model": model, "precision": precision}
    reference, correct = built(model, "fp32"), built(model, precision)
    proto = onnx.load(str(correct))
    while "kind" not in told:
        try:
            told |= plant(proto, rng)
        except LookupError:
            continue
    with tempfile.TemporaryDirectory(prefix="mmtrt-fault-") as folder:
        path = Path(folder) / f"{model}.{precision}.onnx"
        onnx.save(proto, str(path))
        return told | measured(reference, path, precision) | gate(reference, path)


def measured(reference: Path, path: Path, precision: str) -> Row:
    """Return whether a fault breaks the graph, changes an output beyond its budget, or is harmless."""
    found = independent(reference, path)
    if isinstance(found, str):
        return {"fault": "breaks", "reason": found}
    default = default_budget(precision)["sqnr_db"]
    reached = json.loads(metadata_of(onnx.load(str(path), load_external_data=False)).get("mmtrt.reached", "{}"))
    bounds = {name: max(default, reached.get(name, 0.0) - MARGIN_DB) for name in found}
    worst = min(found, key=lambda name: found[name] - bounds[name])
    # JSON has neither infinity.
    sqnr_db = None if found[worst] == np.inf else max(found[worst], -999.0)
    told = "harmless" if found[worst] >= bounds[worst] else "changes"
    return {"fault": told, "output": worst, "sqnr_db": sqnr_db, "budget_db": bounds[worst]}


def gate(reference: Path, path: Path) -> Row:
    """Return the verdict of a check with its defaults: `pass`, `fail`, or the error that ends it, none exit code 0."""
    start = time.perf_counter()
    request = CheckRequest(candidate=str(path), against=str(reference), samples=samples_of(reference))
    try:
        result = check_files(Context(cache=StageCache(None)), request)
    except MmtrtError as error:
        return {"verdict": "error", "why": [" ".join(error.message.split())[:200]]}
    why = [f"{name}: {text}" for name, output in result.outputs.items() for text in output.why]
    for case in result.stress:
        why += [f"{case.kind} {case.name}: {name}: {text}" for name, o in case.outputs.items() for text in o.why]
        why += [f"{case.kind} {case.name}: {case.note}"] if case.verdict == "fail" and case.note else []
    return {"verdict": result.verdict, "why": why[:8], "seconds": round(time.perf_counter() - start, 1)}


def correct_row(model: str, precision: str) -> Row:
    """Build a model as `mmtrt build` does and check it: a verdict other than `pass` is a false alarm."""
    reference, path = built(model, "fp32"), built(model, precision)
    return {"model": model, "precision": precision, **gate(reference, path)}


def isolated(key: Row, function: Callable[..., Row], *arguments: Any) -> Row:
    """Run a row in a process of its own; a crash or the time limit is this row's alone, and is no verdict."""
    try:
        return run_isolated(function, *arguments, what=str(key), time_limit_s=LIMIT_S)
    except Exception as error:  # noqa: BLE001 -- told in the row
        return {**key, "fault": "error", "verdict": "error", "why": [_first_line(error)]}


# ------------------------------------------------------------------------------------------------------ what came of it


def rates(rows: Sequence[Row]) -> Row:
    """Count what the gate refused of what changes an output, and let pass of what is harmless."""
    counts: Counter[tuple[str, bool]] = Counter((row["fault"], row["verdict"] == "pass") for row in rows)

    def share(kind: str, *, passed: bool) -> float | None:
        total = counts[kind, True] + counts[kind, False]
        return counts[kind, passed] / total if total else None

    return {
        "faults": len(rows),
        **{kind: counts[kind, True] + counts[kind, False] for kind in ("changes", "harmless", "breaks", "error")},
        "detected": share("changes", passed=False),
        "harmless_passed": share("harmless", passed=True),
        "broken_refused": share("breaks", passed=False),
    }


INTRO = """`python benchmarks/faults.py --count 102 --seed 0`, the same with `--count 105 --seed 1`, and `--correct`
(`--only` for the models named in the results) write these tables; rows of several seeds add up. A fault counts as
one that changes an output where plain ONNX Runtime and numpy find the SQNR of an output over the samples below its
budget (80, 40 and 20 dB, or 12 dB less than what the correct build reached where that is more); all others that run
are harmless by that measure, though a hard case may still show them. Graphs that ONNX Runtime refuses are counted
apart, and are refused by the check too.
"""


def table(rows: Sequence[Row], correct: Sequence[Row]) -> str:
    """Return the tables in Markdown: faults by kind, then correct builds."""
    heads = (
        "fault",
        "planted",
        "change an output",
        "of these detected",
        "harmless",
        "of these passed",
        "break the graph",
    )
    parts = [INTRO]
    if rows:
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        lines.extend(_line(kind, rates([row for row in rows if row.get("kind") == kind])) for kind in KINDS)
        lines.append(_line("**all**", rates(rows)))
        parts.append("\n".join(lines) + "\n")
    if correct:
        alarms = [f"{row['model']} {row['precision']}" for row in correct if row["verdict"] != "pass"]
        models = len({row["model"] for row in correct})
        parts.append(f"Correct builds: {len(correct)} of {models} models; false alarms: {', '.join(alarms) or 'none'}.")
    return "\n".join(parts).rstrip()


def _line(name: str, told: Row) -> str:
    shown = [name, told["faults"], told["changes"], _percent(told["detected"]), told["harmless"]]
    return f"| {' | '.join(map(str, [*shown, _percent(told['harmless_passed']), told['breaks']]))} |"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def main() -> int:
    """Run what was asked for, print each row, and write the results."""
    options = _parse()
    kept: Row = read_json(options.out) if options.out.is_file() and not options.fresh else {}
    if options.fresh:
        shutil.rmtree(work_folder(), ignore_errors=True)
    told: Row = {"rows": list(kept.get("rows", ())), "correct": list(kept.get("correct", ()))}
    failed = _run_correct(options, told) if options.correct else _run_faults(options, told)
    if options.readme:
        into_readme(HERE / "README.md", "faults", table(told["rows"], told["correct"]))
    print(table(told["rows"], told["correct"]))
    return int(failed)


def _run_faults(options: argparse.Namespace, told: Row) -> bool:
    models = options.only or MODELS
    done = {(row["seed"], row["number"]) for row in told["rows"] if row["fault"] != "error"}
    told["rows"] = [row for row in told["rows"] if row["fault"] != "error"]
    for model in models:
        for precision in PRECISIONS:
            run_isolated(built, model, precision, what=f"{model} in {precision}", time_limit_s=LIMIT_S)
    for number in range(options.count):
        if (options.seed, number) in done:
            continue
        key = {"number": number, "seed": options.seed}
        row = isolated(key, fault_row, number, options.seed, models)
        told["rows"].append(row)
        print(_shown(row), flush=True)
        _save(options.out, told)
    missed = [row for row in told["rows"] if row["fault"] == "changes" and row["verdict"] == "pass"]
    for row in missed:
        print(f"missed: {row}")
    return bool(missed)


def _shown(row: Row) -> str:
    told = "" if row.get("sqnr_db") is None else f"{row['sqnr_db']:.1f} dB"
    names = f"{row['number']:4} {row.get('model', ''):16} {row.get('precision', ''):5} {row.get('kind', ''):27}"
    return f"{names} {row['fault']:9} {told:>9}  {row['verdict']}"


def _run_correct(options: argparse.Namespace, told: Row) -> bool:
    names = options.only or (*TRAINED, "vqa-r18-bert", *FAMILIES)
    rows = {(row["model"], row["precision"]): row for row in told["correct"]}
    for name in names:
        for precision in ("fp16", "int8"):
            if rows.get((name, precision), {}).get("verdict") == "pass":
                continue
            row = isolated({"model": name, "precision": precision}, correct_row, name, precision)
            rows[name, precision] = row
            told["correct"] = list(rows.values())
            print(f"{name:16} {precision:5} {row['verdict']:6} {'; '.join(row['why'])[:300]}", flush=True)
            _save(options.out, told)
    return any(row["verdict"] != "pass" for row in told["correct"])


def _save(out: Path, told: Row) -> None:
    head = {"schema": "mmtrt.benchmark/1", "benchmark": "faults", "machine": machine()}
    versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": np.__version__}
    write_json(out, {**head, "versions": versions, "rates": rates(told["rows"]), **told})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=250, help="faults to plant (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--correct", action="store_true", help="check correct builds instead")
    parser.add_argument("--only", nargs="+", metavar="MODEL")
    parser.add_argument("--fresh", action="store_true", help="build all models and run all rows again")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results (%(default)s)")
    parser.add_argument("--readme", action="store_true", help="write the tables into benchmarks/README.md")
    return parser.parse_args()


if __name__ == "__main__":
    # Processes of their own import these functions by the module's name.
    sys.path.insert(0, str(HERE))
    import faults

    sys.exit(faults.main())
