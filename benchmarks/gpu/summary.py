"""The steps' results as one page of Markdown: what to read first, and what to send back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Told = Mapping[str, Any]


def summary(told: Mapping[str, Told]) -> str:
    """Return the page from each step's document, by the step's name."""
    facts = told["facts"]
    found = facts["gpu"]
    versions = ", ".join(f"{name} {value}" for name, value in facts["versions"].items() if value)
    machine = facts["machine"]
    about = (
        f"sm_{found['compute_capability'].replace('.', '')}, {found['memory_mib']} MiB, driver {found['driver']}; "
        f"{machine['cores']} cores, {machine['cpu']}. {versions}. {facts['begun']}."
    )
    lines = [
        f"# {found['name']}",
        "",
        about,
        "",
        *_table(("step", "question", "state", "s"), [_state(row) for row in told.get("steps", {}).get("steps", ())]),
    ]
    for name, part in _PARTS.items():
        if name in told:
            lines += ["", *part(told[name])]
    return "\n".join(lines) + "\n"


def _state(row: Told) -> tuple[str, ...]:
    return row["name"], row["answers"], row["state"], f"{row.get('wall_s', 0):.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in cells)]


def _number(value: Any, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _ahead(told: Told) -> list[str]:
    rows = []
    for name, row in told["engines"].items():
        validity, run = row.get("validity", {}), row.get("run", {})
        said = validity.get("value", {})
        rows.append(
            (
                name,
                f"{said.get('validity', validity.get('error', '-'))} {' '.join(said.get('reasons', []))}",
                "yes" if run.get("ok") else "no",
                f"{_number(run['value']['sqnr_db'], 1)} dB"
                if run.get("ok")
                else run.get("error", row.get("error", "")),
            )
        )
    return ["## Built ahead of time", "", *_table(("engine", "validity", "runs", "against ONNX Runtime"), rows)]


def _prepare(told: Told) -> list[str]:
    bad = [
        (name, row["state"], row.get("said", "")[-200:])
        for name, row in told["models"].items()
        if row["state"] != "done"
    ]
    good = len(told["models"]) - len(bad)
    return [
        "## Models",
        "",
        f"{good} of {len(told['models'])} built in each precision.",
        "",
        *(_table(("model", "state", "said"), bad) if bad else []),
    ]


def _parity(told: Told) -> list[str]:
    rows = [
        (
            name,
            row["verdict"],
            _number(row.get("worst_sqnr_db"), 1),
            f"{row.get('hard_cases', 0)}, failed {len(row.get('failed_cases', []))}",
            row.get("said", ", ".join(row.get("failed_cases", [])))[-200:],
        )
        for name, row in told["checks"].items()
    ]
    return ["## Parity of the engines", "", *_table(("engine", "verdict", "SQNR dB", "hard cases", "told"), rows)]


def _overhead(told: Told) -> list[str]:
    keys = ("host_p50_us", "gpu_p50_us", "overhead_p50_us", "enqueue_p50_us")
    rows = [
        (name, *(_number(row.get(key), 1) for key in keys), str(row.get("cuda_graph", "-")), row.get("error", "")[:160])
        for name, row in told["rows"].items()
    ]
    head = ("engine", "host p50 us", "GPU p50 us", "overhead us", "enqueue us", "CUDA graph", "error")
    return ["## Host overhead, batch 1", "", *_table(head, rows)]


def _events(told: Told) -> list[str]:
    keys = (("mmtrt_p50_ms", 4), ("bare_p50_ms", 4), ("ratio", 4))
    rows = [
        (name, *(_number(row.get(key), digits) for key, digits in keys), row.get("error", "")[:160])
        for name, row in told["rows"].items()
    ]
    head = ("model", "mmtrt p50 ms", "bare p50 ms", "ratio", "error")
    return ["## Against bare CUDA events", "", *_table(head, rows)]


def _speed(told: Told) -> list[str]:
    rows: list[tuple[str, ...]] = []
    slower: list[tuple[str, ...]] = []
    for name, row in told["rows"].items():
        if "results" not in row:
            rows.append((name, "", row.get("said", "")[-200:], *[""] * 5))
            continue
        for result in row["results"]:
            at = ", ".join(f"{key} {size}" for key, size in result["sizes"].items())
            rows.append((name, at, *_measured(result)))
            lost = ((result.get("layers") or {}).get("slower") or {}).get("slower", [])
            slower.extend((name, at, one["module"] or "?", "; ".join(one["why"])) for one in lost[:3])
        rows.extend(
            (name, "", what, f"not run: {why[-200:]}", *[""] * 4) for what, why in (row["not_run"] or {}).items()
        )
    head = ("model", "at", "what", "ran", "p50 ms", "p99 ms", "CUDA graph", "x the FP16 engine (95%)")
    lines = ["## Speed", "", *_table(head, rows)]
    if slower:
        title = "## Where INT8 is not faster than FP16: the three parts of each model that lose most"
        lines += ["", title, "", *_table(("model", "at", "module", "why"), slower)]
    return lines


def _measured(result: Told) -> tuple[str, ...]:
    return (
        result["file"].rpartition("/")[2],
        result["runs"],
        _number(result["p50_ms"], 4),
        _number(result["p99_ms"], 4),
        str(result["cuda_graph"]),
        _ratio(result["ratio"]),
    )


def _ratio(found: Told | None) -> str:
    if not found:
        return ""
    low, high = found["ci95"]
    return f"{found['p50']:.2f} ({low:.2f} to {high:.2f})"


def _flat(title: str) -> Callable[[Told], list[str]]:
    def part(told: Told) -> list[str]:
        return [f"## {title}", "", *_table(("what", "value"), [(key, str(value)) for key, value in told.items()])]

    return part


def _misuse(told: Told) -> list[str]:
    rows = [
        (name, "yes" if row["clear"] else "NO", "yes" if row["works_on"] else "NO", row["error"][:160])
        for name, row in told["rows"].items()
    ]
    return ["## Pulled away", "", *_table(("what", "clear error", "works on", "error"), rows)]


_PARTS: dict[str, Callable[[Told], list[str]]] = {
    "ahead": _ahead,
    "prepare": _prepare,
    "parity": _parity,
    "overhead": _overhead,
    "events": _events,
    "speed": _speed,
    "soak": _flat("10,000 runs"),
    "misuse": _misuse,
    "tests": _flat("Tests"),
}
