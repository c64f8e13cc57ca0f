"""Tables for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from mmtrt.report.cells import db, mark, new_table, percent
from mmtrt.report.checks import failures
from mmtrt.report.stress import stress_lines
from mmtrt.results import BenchResult, BenchRow, BuildResult, CheckResult

__all__ = [
    "build_view",
    "facts_view",
    "findings_table",
    "kernels_text",
    "layers_view",
    "run_view",
    "sensitivity_view",
]


def _mb(count: int) -> str:
    return f"{count / 1e6:.2f}"


# ------------------------------------------------------------------------------------------------------ one run


def run_view(
    builds: Sequence[BuildResult], checks: Sequence[CheckResult], bench: BenchResult, engines: BenchResult | None
) -> RenderableType:
    """The table of a whole run: a row per precision, PyTorch first, and what the engines did below."""
    ran = [check for check in checks if check.verdict != "not run"]
    heads = [(name, metric) for name, output in ran[0].outputs.items() for metric in output.task] if ran else []
    table = new_table()
    for heading in ("", "ONNX MB", "engine MB", "INT8 MACs"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, metric in heads:
        table.add_column(Text(f"{name}\n{metric} %"), justify="right")
    for heading in ("SQNR dB", "cosine", "calib s", "build s", "CPU p50 ms", "parity"):
        table.add_column(heading, justify="right")
    table.add_column("ran", justify="left")
    by_file = {row.file: row for row in bench.results}
    if ran:
        table.add_row(*_reference_row(ran[0], heads, bench))
    for build in builds:
        check = next((c for c in ran if c.candidate.what == build.artifacts["onnx"]), None)
        table.add_row(*_build_row(build, check, heads, by_file.get(build.artifacts["onnx"])))
    below = [_engine_line(build, checks, engines) for build in builds]
    wrong = [line for check in checks for line in failures(check)]
    stressed = [line for check in checks for line in _stressed(check)]
    return Group(table, "", *below, *wrong, *stressed)


def _reference_row(check: CheckResult, heads: Sequence[tuple[str, str]], bench: BenchResult) -> list[str | Text]:
    shares = [percent(check.outputs[name].reference_task[metric]) for name, metric in heads]
    first = bench.results[0]
    return ["PyTorch", "", "", "", *shares, "", "", "", "", f"{first.p50_ms:.2f}", "", _short(check.reference.runs)]


def _build_row(
    build: BuildResult, check: CheckResult | None, heads: Sequence[tuple[str, str]], row: BenchRow | None
) -> list[str | Text]:
    int8 = f"{100 * build.int8['mac_share']:.1f} %" if build.int8 else ""
    calibration = f"{build.calibration['wall_s']:.2f}" if build.calibration and "wall_s" in build.calibration else ""
    shares = [percent(check.outputs[name].task.get(metric)) for name, metric in heads] if check else [""] * len(heads)
    sqnr, cosine = _worst(check)
    return [
        build.precision.upper(),
        _mb(build.onnx_bytes),
        _mb(build.engine_bytes),
        int8,
        *shares,
        sqnr,
        cosine,
        calibration,
        f"{build.build_s:.1f}",
        f"{row.p50_ms:.2f}" if row else "",
        mark(check.verdict) if check else "",
        _short(check.candidate.runs) if check else "",
    ]


def _worst(check: CheckResult | None) -> tuple[str, str]:
    """The lowest SQNR and cosine of all outputs."""
    if check is None:
        return "", ""
    shown = {db(output.metrics) for output in check.outputs.values()}
    numbers = [text for text in shown if text not in {"none", "exact"}]
    ratio = "none" if "none" in shown else min(numbers, key=float, default="exact")
    cosines = [o.metrics["cosine"] for o in check.outputs.values() if o.metrics["cosine"] is not None]
    return ratio, f"{min(cosines):.6f}" if cosines else ""


def _short(runs: str) -> Text:
    """Without a version's local part, `2.13.0+cpu`, and without the word that all of PyTorch's rows share."""
    return Text(" ".join(word.split("+")[0] for word in runs.split(" ") if word != "eager"))


def _engine_line(build: BuildResult, checks: Sequence[CheckResult], engines: BenchResult | None) -> Text:
    what = build.artifacts["engine"]
    head = f"{Path(what).name}: {build.flavor} {build.flavor_version}, "
    measured = {row.file: row for row in engines.results} if engines else {}
    check = next((c for c in checks if c.candidate.what == what), None)
    if check is None or check.verdict == "not run":
        reason = check.candidate.note.partition(":")[0] if check else ""
        return Text(f"{head}built, not run ({reason})" if reason else f"{head}built, not run")
    time = f", p50 {measured[what].p50_ms:.3f} ms" if what in measured else ""
    return Text(f"{head}{check.verdict} on {check.candidate.runs}{time}")


def _stressed(check: CheckResult) -> list[Text]:
    """How many hard cases there were, and what is to be said of them."""
    if not check.stress:
        return []
    counts = Counter(case.verdict for case in check.stress)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    what = Path(check.candidate.what).name
    return [Text(f"{what}: {len(check.stress)} hard cases: {told}"), *stress_lines(check.stress)]


# --------------------------------------------------------------------------------------------------- one command


def build_view(build: BuildResult) -> RenderableType:
    """What one build made."""
    size = f"{_mb(build.engine_bytes)} MB, built in {build.build_s:.1f} s, not run"
    rows = {
        "precision": build.precision,
        "engine": f"{build.artifacts['engine']}  ({size})",
        "builder": f"{build.flavor} {build.flavor_version}",
        "ONNX": f"{build.artifacts['onnx']}  ({_mb(build.onnx_bytes)} MB)",
    }
    if build.int8:
        share = f"{100 * build.int8['mac_share']:.1f} % of the multiply-accumulates"
        rows["INT8"] = f"{build.int8['nodes']} of {build.int8['of']} nodes, {share}"
    if build.search:
        rows |= _search_rows(build.search)
    if build.calibration:
        rows["calibration"] = _calibration(build.calibration)
    if build.reached:
        told = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in build.reached.items())
        rows["reached"] = f"{told}  (SQNR against FP32, on calibration samples)"
    if build.layers:
        rows["kernels"] = kernels_text(build.layers)
    if build.cached:
        rows["cached"] = "nothing had changed, nothing was done"
    return facts_view(rows)


_SHOWN = 10
"""Layers that stay FP16 in a build's view."""


def _search_rows(found: Mapping[str, Any]) -> dict[str, str]:
    verdict = "holds" if found["met"] else f"can't be met: {'; '.join(found['outside'])}"
    cost = f"{found['trials']} placements, {found['inferences']:.1f} passes over the set, {found['wall_s']:.1f} s"
    rows = {"budget": f"{verdict}, on {found['judged_on']} samples that did not calibrate  ({cost})"}
    lines = [
        f"{loss['module']}  ({100 * loss['mac_share']:.2f} % of the work, {_hurt(loss)} alone)"
        for loss in found["kept"]
    ]
    if len(lines) > _SHOWN:
        lines = [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more: --json tells all"]
    return {**rows, "stays FP16": "\n".join(lines)} if lines else rows


def _hurt(loss: Mapping[str, Any]) -> str:
    """The output that a layer hurts most, and how far."""
    known = [(value, name) for name, value in loss["sqnr_db"].items() if value is not None]
    return f"{min(known)[1]} {min(known)[0]:.1f} dB" if known else "no output"


def sensitivity_view(found: Mapping[str, Any]) -> RenderableType:
    """Branches and layers, the most sensitive first: SQNR in dB of each output when they alone are INT8."""
    tables = []
    for title, rows in (("branch", found["branches"]), ("layer", found["layers"])):
        table = new_table()
        table.add_column(title)
        table.add_column("layers" if title == "branch" else "node")
        table.add_column("work %", justify="right")
        table.add_column("largest input", justify="right")
        for output in rows[0]["sqnr_db"] if rows else ():
            table.add_column(f"{output} dB", justify="right")
        for row in rows:
            cells = ["-" if value is None else f"{value:.1f}" for value in row["sqnr_db"].values()]
            what = str(row["layers"]) if title == "branch" else row["name"]
            share, largest = f"{100 * row['mac_share']:.2f}", f"{row['largest']:.3g}"
            table.add_row(Text(row["module"]), Text(what), share, largest, *cells)
        tables.append(table)
    cost = f"{found['inferences']:.1f} passes over the set, {found['wall_s']:.1f} s"
    return Group(*tables, Text(f"on {found['samples']} samples that did not calibrate; {cost}"))


def _calibration(record: Mapping[str, Any]) -> str:
    text = f"{record['samples']} samples of {record['source']}, {record['method']}"
    if "wall_s" in record:
        text += f", {record['wall_s']:.2f} s, of which {record['read_s']:.2f} s waiting for samples"
        if record["inference_s"] is not None:
            text += f" (plain inference {record['inference_s']:.2f} s)"
        text += f", peak {record['peak_rss_mib']:.0f} MiB"
    return text


def kernels_text(layers: Mapping[str, Any]) -> str:
    """Return how many kernels an engine has, what kinds, and how much of the work INT8 does."""

    def counts(kinds: Mapping[str, int]) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none"

    kinds = f"gemm: {counts(layers['gemm'])}; conv: {counts(layers['conv'])}"
    share = layers.get("int8_mac_share")
    told = f"; INT8 does {100 * share:.1f} % of the multiply-accumulates" if share else ""
    return f"{layers['kernels']}, of which {layers['moves']} only move data; {kinds}{told}"


def layers_view(layers: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Return an engine's kernels in order: what each is, where it came from, its types, work and weights."""
    table = new_table("kernels")
    for heading in ("#", "kind", "in", "out", "weights", "M MACs", "KB", "module", "ONNX nodes"):
        table.add_column(heading, justify="right" if heading in {"#", "M MACs", "KB"} else "left")
    kernels = [row for row in layers if row["role"] != "shape"]
    for number, row in enumerate(kernels, 1):
        work, moved = row.get("macs"), row.get("bytes_moved")
        table.add_row(
            str(number),
            Text(f"{row['role']} ({row['kind']})"),
            *(_types(row[name]) for name in ("inputs", "outputs", "constants")),
            f"{work / 1e6:.2f}" if work else "",
            "open" if moved is None else f"{moved / 1e3:.1f}",
            Text(_shortened(row.get("modules", ()))),
            Text(_shortened(row["nodes"])),
        )
    moves = sum(row["role"] == "move" for row in kernels)
    return Group(table, Text(f"{len(kernels)} kernels, {moves} only move data; KB is what each reads and writes"))


def _types(tensors: Sequence[Mapping[str, Any]]) -> Text:
    return Text(", ".join(dict.fromkeys(str(tensor["dtype"]) for tensor in tensors)))


def _shortened(names: Sequence[str], shown: int = 3) -> str:
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def facts_view(facts: Mapping[str, str]) -> RenderableType:
    """Names and values, a line each."""
    table = new_table()
    table.show_header = False
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, Text(value))
    return table


def findings_table(rows: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """What doctor found: state, name, detail and mend."""
    marks = {"ok": "[green]ok[/]", "missing": "[yellow]missing[/]", "warn": "[red]warning[/]"}
    table = new_table()
    for heading in ("", "", "", "what to do"):
        table.add_column(heading, overflow="fold")
    for state, name, detail, fix in rows:
        table.add_row(marks.get(state, state), Text(name), Text(detail), Text(fix))
    return table
