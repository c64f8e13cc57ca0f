"""Every family of transformers that mmtrt knows, and ten that nobody listed, from a folder to FP16 and INT8 engines.

    python benchmarks/families.py [--only NAME...] [--out FILE] [--readme]

Each row is a tiny model with random weights, saved to a folder as a user's is: `hf:FOLDER` is exported (which compares
with PyTorch at the usual, the smallest and the largest shape), compared again with each modality absent, parsed and
built by TensorRT-RTX in FP16 and in INT8. A row runs in a process of its own with a time limit, so that no row stops
another. Exit code 1 where a listed family failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from marked import into_readme

from mmtrt.artifacts import StageCache, write_json
from mmtrt.engine.flavours import choose
from mmtrt.errors import MmtrtError
from mmtrt.export.exporter import ExportOptions
from mmtrt.export.sources import Source, load_source
from mmtrt.export.verify import TOLERANCE
from mmtrt.isolation import run_isolated
from mmtrt.machine import machine
from mmtrt.pipeline.building import BuildRequest, build_stage
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.exporting import ExportResult, export_stage
from mmtrt.runtimes.eager import EagerRunner
from mmtrt.runtimes.ort import OrtRunner
from mmtrt.tensors import Array

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests" / "models"))

import tiny_hf  # noqa: E402 -- the tests' tiny models

LIMIT_S = 900.0
SAMPLES = 64

Row = dict[str, Any]


# ---------------------------------------------------------------------------------------------------------- one row


def row(name: str) -> Row:
    """Take one model the whole way; a stage that fails is told with its message, and ends the row."""
    told: Row = {"name": name, "listed": name in tiny_hf.LISTED, "failed": None, "seconds": {}}
    with tempfile.TemporaryDirectory(prefix="mmtrt-family-") as place:
        folder = Path(place) / name
        os.environ["MMTRT_CACHE_DIR"] = str(Path(place) / "cache")
        try:
            _whole_way(told, name, folder, Context(cache=StageCache(Path(place) / "cache")))
        except MmtrtError as error:
            told["failed"] = {"stage": told.pop("at"), "message": _plain(error.message, place), "fix": error.fix}
        except Exception as error:  # noqa: BLE001 -- whatever it was, the row tells it and the others go on
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            told["failed"] = {"stage": told.pop("at"), "message": _plain(message, place), "fix": None}
    told.pop("at", None)
    return told


def _plain(text: str, place: str) -> str:
    return text.replace(f"{place}/", "").replace(str(Path(np.__file__).parents[1]), "site-packages")


def _whole_way(told: Row, name: str, folder: Path, context: Context) -> None:
    folder.mkdir()
    timed(told, "make", lambda: tiny_hf.make(name, folder))
    told["class"] = json.loads((folder / "config.json").read_text())["architectures"][0]
    source = timed(told, "load", lambda: load_source(f"hf:{folder}"))
    told |= {
        "inputs": [str(tensor) for tensor in source.inputs],
        "outputs": list(source.outputs or ()),
        "modalities": {modality: list(names) for modality, names in source.modalities.items()},
        "ranges": {size: list(span) for size, span in source.ranges.items()},
    }
    options = ExportOptions(calibration_samples=SAMPLES)
    exported = timed(told, "export", lambda: export_stage(context, source, options))
    told["findings"] = [_plain(text, str(folder.parent)) for text in exported.warnings]
    told["mended"] = list(exported.applied)
    told["shapes"] = [
        {"sizes": dict(seen["sizes"]), "max_abs": max(seen["max_abs"].values())}
        for seen in exported.verified
        if not seen["masked"]
    ]
    told["absent"] = timed(told, "absent", lambda: list(absences(source, exported)))
    for precision in ("fp16", "int8"):
        request = BuildRequest(model=exported.onnx, folder=folder, precision=precision, coverage="wide")
        built = timed(told, precision, lambda request=request: build_stage(context, request))
        told[f"{precision}_engine_bytes"] = built.engine_bytes
        if precision == "int8":
            told["int8"] = dict(built.int8 or {})


def timed(told: Row, stage: str, work: Callable[[], Any]) -> Any:
    """Run one stage; its seconds go into the row, its name too while it runs."""
    told["at"] = stage
    start = time.perf_counter()
    try:
        return work()
    finally:
        told["seconds"][stage] = round(time.perf_counter() - start, 2)


def absences(source: Source, exported: ExportResult) -> Iterator[Row]:
    """Compare with each modality absent from one of two events; ModelError-like where the graph says anything else."""
    eager = EagerRunner(source.module, source.inputs)
    with OrtRunner(exported.onnx, "parity") as runner:
        taken = {tensor.name for tensor in runner.inputs}
        for modality, names in source.modalities.items():
            feeds = without(source.examples, names)
            try:
                wanted = list(eager.infer(feeds).values())
            except Exception as error:  # noqa: BLE001 -- what PyTorch refuses is told, it is no failure
                yield {"modality": modality, "pytorch": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
                continue
            if any(np.isnan(array).any() for array in wanted):
                yield {"modality": modality, "pytorch": "NaN"}
                continue
            got = runner.infer({name: array for name, array in feeds.items() if name in taken})
            yield {"modality": modality, **difference(modality, wanted, list(got.values()))}


def without(examples: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """Return the examples, the first event without a modality: wholly masked, zeros where it has no mask."""
    feeds = {name: array.copy() for name, array in examples.items()}
    masks = [name for name in names if name.endswith("attention_mask")]
    for name in masks or [name for name in names if feeds[name].dtype.kind == "f"]:
        feeds[name][0] = 0
    return feeds


def difference(modality: str, wanted: list[Array], got: list[Array]) -> Row:
    """Return the largest difference; RuntimeError where it is beyond what an export may be off by.

    Logits of places that a text does not fill are -inf, in both.
    """
    worst = 0.0
    for mine, theirs in zip(got, wanted, strict=True):
        known = np.isfinite(theirs)
        off = float(np.abs(mine[known].astype(np.float64) - theirs[known].astype(np.float64)).max(initial=0.0))
        scale = max(1.0, float(np.abs(theirs[known], dtype=np.float64).max(initial=0.0)))
        if not (off <= TOLERANCE * scale and np.array_equal(mine[~known], theirs[~known])):
            raise RuntimeError(f"without {modality} the graph is off by {off:.3g}")
        worst = max(worst, off)
    return {"max_abs": worst}


# -------------------------------------------------------------------------------------------------------- all of them


def main() -> int:
    """Run the rows, print them, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(tiny_hf.MAKERS))
    parser.add_argument("--out", type=Path, help="Results as JSON; rows that are there and not run again are kept.")
    parser.add_argument("--readme", action="store_true", help="Write the table into benchmarks/README.md.")
    options = parser.parse_args()
    kept = {row["name"]: row for row in json.loads(options.out.read_text())["rows"]} if _there(options.out) else {}
    for name in options.only or tiny_hf.MAKERS:
        kept[name] = _isolated(name)
        print(_line(kept[name]), flush=True)
        if options.out:
            _write(options.out, kept)
    rows = [kept[name] for name in tiny_hf.MAKERS if name in kept]
    if options.readme:
        into_readme(HERE / "README.md", "families", table(rows).rstrip())
    failed = [row["name"] for row in rows if row["failed"] and row["listed"]]
    print(f"{len(rows)} rows; listed families that failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def _there(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _isolated(name: str) -> Row:
    start = time.perf_counter()
    try:
        told = run_isolated(row, name, what=name, time_limit_s=LIMIT_S)
    except Exception as error:  # noqa: BLE001 -- a crash or the time limit is this row's alone
        message = " ".join(str(error).split())[-600:]
        told = {"name": name, "listed": name in tiny_hf.LISTED, "seconds": {}}
        told["failed"] = {"stage": "its process", "message": f"{type(error).__name__}: {message}", "fix": None}
    told["seconds"]["all"] = round(time.perf_counter() - start, 1)
    return told


def _write(path: Path, kept: Mapping[str, Row]) -> None:
    flavour = choose("auto")
    result = {
        "schema": "mmtrt.benchmark/1",
        "benchmark": "families",
        "machine": {**machine(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("torch", "transformers", "onnx", "onnxruntime")}
        | {flavour.name: str(flavour.version)},
        "rows": [kept[name] for name in tiny_hf.MAKERS if name in kept],
    }
    write_json(path, result)


def _line(told: Row) -> str:
    failed = told["failed"]
    how = f"{failed['stage']}: {failed['message']}" if failed else "ok"
    return f"{told['name']:18} {told['seconds']['all']:6.1f} s  {how}"


_INTRO = """## Families of transformers

`python benchmarks/families.py --out benchmarks/results/<machine>/families.json --readme` writes these tables. Each row
is a tiny model with random weights in a folder, `hf:FOLDER`: exported and compared with PyTorch at the usual, the
smallest and the largest shape; compared again with each modality absent from one of two events (wholly masked where it
has a mask, zeros else); built by TensorRT-RTX in FP16 and INT8 (coverage "wide"), and not run. "Off" is the largest
difference, of FP32 outputs. Seconds are those of all of it.
"""
_COLUMNS = {"absent": 5, "fp16": 6, "int8": 7}
"""Where a stage's failure is told; that of any other stands where the export's figure would."""


def table(rows: list[Row]) -> str:
    """Return two tables in Markdown: the listed families, and the others through the general path."""
    heads = ("model", "class", "inputs", "outputs", "off at 3 shapes", "off when absent")
    heads += ("FP16", "INT8", "INT8 MACs", "mended by", "s")
    head, rule = f"| {' | '.join(heads)} |\n", "|---" * len(heads) + "|\n"
    parts = []
    for title, listed in (("Listed families", True), ("Others, through the general path", False)):
        mine = [row for row in rows if row["listed"] is listed]
        parts.append(f"**{title}**\n\n{head}{rule}" + "".join(map(_cells, mine)))
    return "\n".join([_INTRO, *parts])


def _cells(told: Row) -> str:
    failed = told["failed"]
    shown = [
        told["name"],
        told.get("class", ""),
        ", ".join(text.partition(":")[0] for text in told.get("inputs", ())),
        ", ".join(told.get("outputs", ())),
        f"{max(seen['max_abs'] for seen in told['shapes']):.0e}" if "shapes" in told else "",
        "; ".join(map(_absent, told.get("absent", ()))),
        "built" if "fp16_engine_bytes" in told else "",
        "built" if "int8_engine_bytes" in told else "",
        f"{100 * told['int8']['mac_share']:.0f}%" if "int8" in told else "",
        ", ".join(told.get("mended", ())),
        f"{told['seconds']['all']:.0f}",
    ]
    if failed:
        message = failed["message"].replace("|", "/")
        shown[_COLUMNS.get(failed["stage"], 4)] = f"**{failed['stage']}**: {' '.join(message.split())[:300]}"
    return f"| {' | '.join(shown)} |\n"


def _absent(seen: Row) -> str:
    return (
        f"{seen['modality']} {seen['max_abs']:.0e}"
        if "max_abs" in seen
        else f"{seen['modality']}: PyTorch itself: {seen['pytorch']}"
    )


if __name__ == "__main__":
    # Processes of their own import these functions by the module's name.
    sys.path.insert(0, str(HERE))
    import families

    sys.exit(families.main())
