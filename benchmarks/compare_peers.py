"""mmtrt beside its peers, on the same models and the same samples, each tool in a process of its own.

    python benchmarks/compare_peers.py [--models vqa-r18-bert ...] [--tools mmtrt ort-entropy ...] [--out DIR]

A row tells wall time, plain FP32 inference over the same samples beside it, peak memory, SQNR and cosine per output on
held-out samples, task metrics where the model is trained, INT8 share of the multiply-accumulates, bytes of the ONNX
and of the TensorRT-RTX engine, what is in that engine, and an estimate of its time at the usual sizes. ModelOpt gets an
environment of its own, made on the first run under the cache. One JSON a model is written as its rows come in, and what
it holds already is not run again unless `--again` is given. `--table` only prints the table of what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marked import into_readme

from mmtrt.artifacts import write_json
from mmtrt.engine.build import BuildOptions, build_engine
from mmtrt.engine.targets import load_target
from mmtrt.errors import MmtrtError
from mmtrt.export.exporter import ExportOptions, export_model
from mmtrt.export.sources import load_source
from mmtrt.machine import machine
from mmtrt.onnx_files import model_spec, open_model
from mmtrt.parity.compare import Side, compare
from mmtrt.pipeline.structure import engine_structure
from mmtrt.precision.graph import behind_dq, mac_nodes, typed, usual_shapes, with_weights_in
from mmtrt.runtimes.isolated import IsolatedOrtRunner
from mmtrt.samples import SampleSet, batches, checked, open_set

HERE = Path(__file__).parent
TOOLS: dict[str, tuple[str, str]] = {
    "mmtrt": ("mmtrt_convert", "auto full balance round bias"),
    "mmtrt-default": ("mmtrt_convert", "auto engine balance round bias"),
    "mmtrt-wide": ("mmtrt_convert", "auto wide balance round bias"),
    "mmtrt-max": ("mmtrt_convert", "max full"),
    "mmtrt-percentile": ("mmtrt_convert", "percentile full"),
    "mmtrt-entropy": ("mmtrt_convert", "entropy full"),
    "mmtrt-mse": ("mmtrt_convert", "mse full"),
    "mmtrt-auto": ("mmtrt_convert", "auto full"),
    "mmtrt-auto+bias": ("mmtrt_convert", "auto full bias"),
    "mmtrt-auto+compensate": ("mmtrt_convert", "auto full compensate"),
    "mmtrt-auto+round": ("mmtrt_convert", "auto full round"),
    "mmtrt-auto+balance": ("mmtrt_convert", "auto full balance"),
    "mmtrt-all": ("mmtrt_convert", "auto full balance compensate round bias"),
    "ort-minmax": ("ort_static", "minmax"),
    "ort-percentile": ("ort_static", "percentile"),
    "ort-entropy": ("ort_static", "entropy"),
    "modelopt-max": ("modelopt_tools", "max"),
    "modelopt-entropy": ("modelopt_tools", "entropy"),
    "mmtrt-fp16": ("mmtrt_convert", "fp16"),
    "modelopt-autocast": ("modelopt_tools", "autocast"),
}
"""Row -> the script in `peers/` and its method; mmtrt's rows from `max` on are its ablation."""

MODELS = ("vqa-coattention", "vqa-r18-bert", "vqa-r50-bert", "vqa-r101-bert")
METRICS = {"vqa-coattention": {"answer": ["accuracy"], "match": ["accuracy", "f1"], "generate": ["exact_phrase"]}}
"""Heads' task metrics of the trained models, taken on `--tested` samples of their test split."""
BATCH = 8
TARGET = load_target("any-rtx")
"""Whose GPU the engines' times are estimated for."""


def main() -> None:
    """Measure what is asked for and not yet measured, and print the table."""
    options = _parse()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.models:
        path = options.out / f"{name}.json"
        result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else _fresh(name)
        if not options.table:
            for row in _measured(name, result, options):
                result["rows"] = [*(r for r in result["rows"] if r["tool"] != row["tool"]), row]
                result["rows"].sort(key=lambda r: list(TOOLS).index(r["tool"]))
                write_json(path, result)
        print(table(result))
    if options.readme:
        there = [path for path in (options.out / f"{name}.json" for name in MODELS) if path.is_file()]
        results = [json.loads(path.read_text(encoding="utf-8")) for path in there]
        into_readme(HERE / "README.md", "peers", "\n\n".join(f"**{r['model']}**\n\n{table(r)}" for r in results))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--samples", type=int, default=128, help="calibration samples (%(default)s)")
    parser.add_argument("--held-out", type=int, default=32, help="samples for SQNR (%(default)s)")
    parser.add_argument("--tested", type=int, default=1000, help="samples for task metrics (%(default)s)")
    parser.add_argument("--time-limit", type=float, default=1800, help="seconds a tool may take (%(default)s)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "cpu-2core" / "peers")
    parser.add_argument("--again", action="store_true", help="measure what the results hold already too")
    parser.add_argument("--table", action="store_true", help="print the table of the results, measure nothing")
    parser.add_argument("--readme", action="store_true", help="put the tables of all results into benchmarks/README.md")
    return parser.parse_args()


def _fresh(name: str) -> dict[str, Any]:
    return {
        "schema": "mmtrt.benchmark/1",
        "benchmark": "peers",
        "model": f"zoo:{name}",
        "machine": machine(),
        "rows": [],
    }


# --------------------------------------------------------------------------------------------------- measuring


def _measured(name: str, result: dict[str, Any], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows that are asked for and missing."""
    had = {row["tool"] for row in result["rows"] if row["samples"] == options.samples and "error" not in row}
    wanted = [tool for tool in options.tools if options.again or tool not in had]
    if not wanted:
        return
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        made = export_model(
            load_source(f"zoo:{name}"), Path(folder), ExportOptions(calibration_samples=options.samples)
        )
        result["onnx_bytes"] = made.onnx.stat().st_size
        judge = _Judge(name, made.onnx, Path(folder), options)
        for tool in wanted:
            print(f"{name}: {tool}", file=sys.stderr, flush=True)
            script, method = TOOLS[tool]
            request = {
                "model": str(made.onnx),
                "target": str(Path(folder, f"{tool}.onnx")),
                "samples": str(made.calibration),
                "count": options.samples,
                "batch": BATCH,
            }
            # Plain inference before and after, so that a machine that slows down is no tool's fault.
            plain = [_plain(request, options)]
            row = {"tool": tool, "method": method, "samples": options.samples}
            row |= _run(script, {**request, "method": method}, options)
            plain.append(_plain(request, options))
            row["inference_s"] = statistics.mean(plain)
            if "error" not in row:
                row |= judge.judged(Path(request["target"]))
                Path(request["target"]).unlink()
            yield row


def _plain(request: dict[str, Any], options: argparse.Namespace) -> float:
    told = _run("plain_inference", {**request, "method": ""}, options)
    if "error" in told:
        raise SystemExit(f"plain inference failed: {told['error']}")
    return float(told["inference_s"])


def _run(script: str, request: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run a tool in its own process; what it printed last as JSON, or `error` with its last words."""
    python = _modelopt_python() if script == "modelopt_tools" else Path(sys.executable)
    command = [str(python), str(HERE / "peers" / f"{script}.py"), json.dumps(request)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=options.time_limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {options.time_limit:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        return {"error": words[-1] if words else f"ended with {done.returncode}"}
    told: dict[str, Any] = json.loads(lines[-1])
    return told


class _Judge:
    """Judges what a tool wrote against the FP32 model: accuracy on held-out samples, coverage, the engine."""

    def __init__(self, name: str, reference: Path, folder: Path, options: argparse.Namespace) -> None:
        self._name = name
        self._reference = reference
        self._folder = folder
        self._options = options
        self._spec = model_spec(open_model(reference))
        self._macs = {mac.name: mac.macs for mac in self._nodes(reference)}

    def judged(self, candidate: Path) -> dict[str, Any]:
        """Return what is to be told of one file."""
        return {
            "onnx_bytes": candidate.stat().st_size,
            "int8_mac_share": self._share(candidate),
            **self._accuracy(candidate),
            "engine": self._engine(candidate),
        }

    def _nodes(self, path: Path) -> list[Any]:
        proto = typed(open_model(path))
        return mac_nodes(
            with_weights_in(proto, path.parent), usual_shapes(proto, {n: s[1] for n, s in self._spec.ranges.items()})
        )

    def _share(self, candidate: Path) -> float:
        inside = sum(self._macs.get(mac.name, 0) for mac in self._nodes(candidate) if behind_dq(mac))
        return inside / sum(self._macs.values())

    def _accuracy(self, candidate: Path) -> dict[str, Any]:
        told = self._compared(candidate, self._options.held_out, {})
        row: dict[str, Any] = {
            "sqnr_db": {name: output.metrics["sqnr_db"] for name, output in told.outputs.items()},
            "cosine": {name: output.metrics["cosine"] for name, output in told.outputs.items()},
        }
        if self._name in METRICS:
            metrics = self._compared(candidate, self._options.tested, METRICS[self._name])
            row["task"] = {name: output.task for name, output in metrics.outputs.items()}
            row["task_fp32"] = {name: output.reference_task for name, output in metrics.outputs.items()}
        return row

    def _compared(self, candidate: Path, count: int, metrics: dict[str, list[str]]) -> Any:
        given = batches(checked(self._held_out(count), self._spec), self._spec, size=BATCH)
        left, right = (Side(what=str(p), runner=IsolatedOrtRunner(p)) for p in (self._reference, candidate))
        return compare(left, [right], given, metrics=metrics)[0]

    def _held_out(self, count: int) -> SampleSet:
        return open_set("vqa-test" if self._name in METRICS else "vqa-bert-test", count=count)

    def _engine(self, candidate: Path) -> dict[str, Any]:
        try:
            built = build_engine(
                candidate, self._folder / "engine", profile=self._spec.dynamic_profile(), options=BuildOptions()
            )
            summary = built.summary.to_json() if built.summary else None
            row = {"bytes": built.engine_bytes, "build_s": built.build_s, "layers": summary}
            if TARGET.gpu is not None and summary is not None:
                usual = {name: span[1] for name, span in self._spec.ranges.items()}
                row["at_usual_sizes"] = engine_structure(candidate, usual, TARGET.gpu).to_json()
        except (MmtrtError, ValueError) as error:
            return {"error": str(error)}
        return row


# ---------------------------------------------------------------------------------------------- environments


def _cache() -> Path:
    cache = Path(os.environ.get("MMTRT_CACHE_DIR") or Path.home() / ".cache" / "mmtrt") / "benchmarks"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _modelopt_python() -> Path:
    """Return the interpreter of ModelOpt's environment, which is made where it is missing or its pins changed."""
    pins = HERE / "peers" / "modelopt.txt"
    folder = _cache() / f"modelopt-{sys.version_info[0]}{sys.version_info[1]}"
    python, done = folder / "bin" / "python", folder / "pins.txt"
    if not done.is_file() or done.read_text(encoding="utf-8") != pins.read_text(encoding="utf-8"):
        print("installing ModelOpt into an environment of its own", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        # torch first and alone, then what else has a wheel for a machine without a GPU, then ModelOpt without the rest.
        lines = [line for line in pins.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
        torch, modelopt = (next(p for p in lines if p.startswith(n)) for n in ("torch==", "nvidia-modelopt=="))
        others = [line for line in lines if line not in {torch, modelopt}]
        for wanted in ([torch], others, ["--no-deps", modelopt]):
            subprocess.run([*pip, *wanted], check=True)
        done.write_text(pins.read_text(encoding="utf-8"), encoding="utf-8")
    return python


# ------------------------------------------------------------------------------------------------------- table


def table(result: dict[str, Any]) -> str:
    """Return the Markdown table of one model."""
    heads = next((list(row["sqnr_db"]) for row in result["rows"] if "sqnr_db" in row), [])
    columns = ["tool", "s", "x inference", "peak GiB", *(f"{head} dB" for head in heads), "INT8 MACs", "ONNX MB"]
    columns += ["engine MB", "kernels", "moves", "int8 gemm+conv", "MB moved", "estimate us"]
    trained = any("task" in row for row in result["rows"])
    columns += ["answer"] if trained else []
    lines = [" | ".join(["", *columns, ""]).strip(), "|" + "---|" * len(columns)]
    for row in result["rows"]:
        if "error" in row:
            lines.append(f"| {row['tool']} | {row['error']} |" + " |" * (len(columns) - 2))
            continue
        engine, layers = row["engine"], row["engine"].get("layers") or {}
        usual = engine.get("at_usual_sizes")
        int8 = sum(layers.get(kind, {}).get("int8", 0) for kind in ("gemm", "conv"))
        cells = [
            row["tool"],
            f"{row['wall_s']:.1f}",
            f"{row['wall_s'] / row['inference_s']:.1f}",
            f"{row['peak_rss_mib'] / 1024:.2f}",
            *(f"{row['sqnr_db'][head]:.1f}" for head in heads),
            f"{row['int8_mac_share']:.1%}",
            f"{row['onnx_bytes'] / 1e6:.1f}",
            f"{engine['bytes'] / 1e6:.1f}" if "bytes" in engine else "not built",
            *(str(layers.get(name, "-")) for name in ("kernels", "moves")),
            str(int8) if layers else "-",
            f"{usual['bytes_moved'] / 1e6:.1f}" if usual else "-",
            f"{usual['estimated_us']:.0f}" if usual else "-",
        ]
        if trained:
            cells.append(f"{row['task']['answer']['accuracy']:.2%}")
        lines.append(" | ".join(["", *cells, ""]).strip())
    return "\n".join(lines)


if __name__ == "__main__":
    main()
