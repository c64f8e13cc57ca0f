"""ONNX to engine, in a process of its own: a Ctrl-C, a crash, a kill or too little memory harm nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmtrt.artifacts import whole_file
from mmtrt.engine.builder import Built, Job, Refusal, build
from mmtrt.engine.flavours import Flavour, choose, gpu
from mmtrt.engine.layers import EngineLayer, LayerSummary, summarise
from mmtrt.engine.options import BuildOptions
from mmtrt.engine.profiles import NetworkTensor, check_order
from mmtrt.errors import BuildError, ModelError
from mmtrt.isolation import CrashError, run_isolated
from mmtrt.runtimes.cuda import GpuInfo
from mmtrt.runtimes.tensorrt_api import LABELS, FlavourName
from mmtrt.tensors import Profile

__all__ = ["BuildOptions", "EngineBuild", "Explain", "build_engine", "int8_kept", "mend", "reason"]

Explain = Callable[[str], "str | None"]
"""From a node's name to what is known of it, say the module it came from; None where nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """An engine that was built, and not run.

    `engine_bytes` is its size, `build_s` the builder's own time; `gpu` is the GPU it was built on, None where
    it was built ahead of time; `layers` and `summary` are None where the builder did not tell them.
    """

    engine: Path
    flavor: FlavourName
    flavor_version: str
    gpu: GpuInfo | None
    engine_bytes: int
    build_s: float
    inputs: tuple[NetworkTensor, ...]
    outputs: tuple[NetworkTensor, ...]
    profile: Profile
    options: BuildOptions
    layers: tuple[EngineLayer, ...] | None
    summary: LayerSummary | None
    notes: tuple[str, ...]


def build_engine(
    onnx: Path,
    engine: Path,
    *,
    profile: Profile,
    options: BuildOptions,
    explain: Explain | None = None,
    flavour: Flavour | None = None,
) -> EngineBuild:
    """Build `engine` from `onnx`; the file appears whole or not at all, and nothing of it is run.

    `profile` holds the range of each input with dynamic axes. `flavour` is the one that the options choose, for who
    knows it: finding it takes TensorRT's libraries into this process. UsageError for a profile that does not fit,
    ModelError for a file that is no ONNX, MachineError where this machine can't, BuildError where the parser
    refuses a node (`explain` adds what is known of it) or the builder fails.
    """
    if not onnx.is_file():
        raise ModelError(f"there is no file {onnx}", fix="Check the path; `mmtrt export` makes an ONNX file.")
    check_order(profile)
    flavour = flavour or choose(options.flavor)
    with whole_file(engine) as plan:
        job = Job(onnx=onnx, plan=plan, flavour=flavour.name, profile=dict(profile), options=options)
        built = _run(job)
        if built.refusals:
            raise _refused(job, built.refusals, explain)
        size = plan.stat().st_size
    return _result(engine, flavour, options, built, size)


def int8_kept(built: EngineBuild) -> int | None:
    """Return how many matrix products and convolutions take INT8; None where the builder did not tell."""
    return None if built.summary is None else built.summary.int8


def _run(job: Job) -> Built:
    what = f"the {LABELS[job.flavour]} builder"
    try:
        return run_isolated(build, job, what=what)
    except CrashError as crash:
        raise BuildError(
            f"{crash.message}\nwhile it built {job.onnx.name}",
            fix="The builder itself failed. Lower optimization_level, or build in FP32, to narrow it down.",
        ) from crash


def _result(engine: Path, flavour: Flavour, options: BuildOptions, built: Built, size: int) -> EngineBuild:
    return EngineBuild(
        engine=engine,
        flavor=flavour.name,
        flavor_version=flavour.version,
        gpu=gpu(),
        engine_bytes=size,
        build_s=built.build_s,
        inputs=built.inputs,
        outputs=built.outputs,
        profile=built.profile,
        options=options,
        layers=built.layers,
        summary=None if built.layers is None else summarise(built.layers),
        notes=built.notes,
    )


# -------------------------------------------------------------------------------------------- refusals

_SHOWN = 10
_ASSERTED = re.compile(r'&& "(?P<told>[^"]+)"')


def _refused(job: Job, refusals: Sequence[Refusal], explain: Explain | None) -> BuildError:
    lines = [_line(refusal, explain) for refusal in refusals[:_SHOWN]]
    if len(refusals) > _SHOWN:
        lines.append(f"and {len(refusals) - _SHOWN} more")
    return BuildError(
        f"{LABELS[job.flavour]} can't take {job.onnx.name}:\n" + "\n".join(f"  {line}" for line in lines),
        fix=mend(refusals[0]),
    )


def reason(refusal: Refusal) -> str:
    """Return why the parser refused a node, without the code that asserted it."""
    asserted = _ASSERTED.search(refusal.text)
    return asserted["told"] if asserted else refusal.text


def _line(refusal: Refusal, explain: Explain | None) -> str:
    text = reason(refusal)
    if not refusal.node and not refusal.operator:
        return text
    known = explain(refusal.node) if explain and refusal.node else None
    where = f", from {known}" if known else ""
    return f"{refusal.node or 'a node without a name'} ({refusal.operator or 'operator unknown'}){where}: {text}"


def mend(refusal: Refusal) -> str:
    """Return what to do about a node that the parser refused."""
    if refusal.operator in {"Loop", "Scan", "If", "SequenceAt", "SequenceConstruct"}:
        return "Rewrite the module without control flow that depends on data, and export it again."
    if "Plugin not found" in refusal.text:
        return (
            f"TensorRT has no operator {refusal.operator}. Write the module with standard operators "
            "and export it again with opset 18."
        )
    if refusal.operator in {"QuantizeLinear", "DequantizeLinear"}:
        return "TensorRT takes symmetric INT8 only, with float biases. Quantise the model with `mmtrt build`."
    return "Export it again with opset 18; if that does not help, write that part of the module differently."
