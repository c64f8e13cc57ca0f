"""A reference recorded once, so that a check against it needs neither its runtime nor its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmtrt
from mmtrt.artifacts import json_text, whole_directory
from mmtrt.errors import InputError, MachineError, MmtrtError, UsageError
from mmtrt.isolation import CrashError
from mmtrt.parity.holding import Scales
from mmtrt.parity.side import Side
from mmtrt.parity.stress import KINDS, StressCase
from mmtrt.parity.stressing import run_stress
from mmtrt.pipeline.checking import versions
from mmtrt.pipeline.choosing import chosen_samples
from mmtrt.pipeline.context import Context
from mmtrt.pipeline.hard_cases import HardCases
from mmtrt.pipeline.saved import RECORD, RECORD_SCHEMA, call_prefix
from mmtrt.pipeline.sides import Subject, is_source, open_subject
from mmtrt.results import plain
from mmtrt.runtimes import Runner
from mmtrt.samples import LABEL, OUTPUT, Batch, Sample, SampleSet, batches, checked, write_sample
from mmtrt.tensors import Array, Feeds, TensorSpec, array_digest

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RecordRequest", "RecordResult", "record_reference"]

_BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRequest:
    """What `mmtrt record` is asked; `folder` None is a folder named after the reference, where the command runs.

    `candidate` is what will be checked: the hard cases are those of its ranges, its tables and its calibration, which
    a source may not know.
    """

    reference: str
    folder: Path | None = None
    samples: str | None = None
    count: int | None = None
    stress: tuple[str, ...] = KINDS
    checkpoint: Path | None = None
    candidate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordResult:
    """Where the recorded reference is, and what `record.json` says."""

    folder: Path
    record: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return `mmtrt.record/1`, and under `folder` where it is."""
        return {**self.record, "folder": str(self.folder)}

    def view(self) -> dict[str, str]:
        """Return names and values for people."""
        samples, cases = self.record["samples"], self.record["stress"]
        refused = sum(any(call["error"] for call in case["calls"]) for case in cases)
        return {
            "recorded": str(self.folder),
            "reference": f"{self.record['what']}, {self.record['runs']}",
            "samples": f"{samples['count']} of {samples['source']}",
            "hard cases": f"{len(cases)}" + (f", {refused} of them refused by the reference" if refused else ""),
            "check with": f"mmtrt check CANDIDATE --against {self.folder}",
        }


def record_reference(context: Context, request: RecordRequest) -> RecordResult:
    """Run a reference over a set and over the hard cases made from it, and keep what came in and what came out.

    The folder appears whole; one that stood there is replaced if it was recorded too. UsageError where a checkpoint
    is given for a file, InputError where the outputs have no batch axis.
    """
    if request.checkpoint is not None and not is_source(request.reference):
        raise UsageError("a checkpoint is given for a file", fix="It has its weights: leave --checkpoint out.")
    subject = open_subject(request.reference, request.checkpoint)
    judged = open_subject(request.candidate) if request.candidate is not None else subject
    hard = HardCases.of(judged.spec, subject, [judged], request.stress)
    samples = chosen_samples(request.samples, request.count, (request.reference,), hard.spec)
    folder = request.folder or Path(f"{_stem(request.reference)}.record")
    _only_ours(folder)
    with whole_directory(folder) as part, subject.exact() as runner:
        context.stage(f"record {subject.what}")
        count = _write_samples(runner, subject, samples, part, context)
        rows = _write_cases(_Heard(runner), subject, hard.made(context, samples), part)
        record = {
            "schema": RECORD_SCHEMA,
            "mmtrt": mmtrt.__version__,
            "what": subject.what,
            "runs": runner.runs,
            "precision": subject.precision,
            "digest": subject.key,
            "versions": dict(zip(("onnxruntime", "torch"), versions(), strict=True)),
            "spec": subject.spec.to_json(),
            "budget": dict(subject.budget),
            "samples": {"source": samples.source, "count": count, "on_data": samples.on_data},
            "kinds": list(request.stress),
            "stress": rows,
        }
        (part / RECORD).write_text(json_text(plain(record)) + "\n", encoding="utf-8")
    return RecordResult(folder=folder, record=plain(record))


def _stem(reference: str) -> str:
    return Path(reference.rpartition(":")[2]).stem or "reference"


def _only_ours(folder: Path) -> None:
    """Raise InputError where a folder holds what was not recorded: replacing it would lose that."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise InputError(f"{folder} holds other files", fix="Name a folder of its own with -o.")


def _write_samples(runner: Runner, subject: Subject, samples: SampleSet, part: Path, context: Context) -> int:
    (part / "samples").mkdir()
    count = 0
    for batch in batches(checked(samples, subject.spec, note=context.note), subject.spec, size=_BATCH):
        outputs = runner.infer(batch.feeds)
        for index, sample in zip(batch.indices, _rows(batch, outputs, subject.what), strict=True):
            write_sample(part / "samples" / f"{index:05d}.npz", sample)
        count += len(batch.indices)
        context.stage(f"record: {count} samples")
    about = {"source": samples.source, "runs": f"{subject.what} in {runner.runs}", "on_data": samples.on_data}
    (part / "samples" / "set.json").write_text(json_text({**about, "count": count}) + "\n", encoding="utf-8")
    return count


def _rows(batch: Batch, outputs: Mapping[str, Array], what: str) -> Iterator[Sample]:
    """Part a batch into samples with their labels and outputs."""
    size = len(batch.indices)
    for name, array in outputs.items():
        if not array.ndim or array.shape[0] != size:
            raise InputError(
                f"{what}: output {name!r} has shape {array.shape} for {size} samples: it has no batch axis",
                fix="Only outputs of single samples can be recorded.",
            )
    for index in range(size):
        yield {
            **{name: array[index] for name, array in batch.feeds.items()},
            **{f"{LABEL}{name}": array[index] for name, array in batch.labels.items()},
            **{f"{OUTPUT}{name}": array[index] for name, array in outputs.items()},
        }


class _Heard:
    """Runs a reference and keeps what it was fed and what it answered, a case at a time."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._calls: dict[str, dict[str, Array] | str] = {}

    @property
    def runs(self) -> str:
        return self._runner.runs

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._runner.outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; a failure of the machine is no answer of the reference's."""
        key = array_digest(feeds)
        try:
            outputs = self._runner.infer(feeds)
        except (CrashError, MachineError) as error:
            raise _Ended(error) from error
        except Exception as error:
            self._calls[key] = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise
        self._calls[key] = outputs
        return outputs

    def taken(self) -> dict[str, dict[str, Array] | str]:
        """Return the runs since the last time, by the digest of their feeds: outputs, or why there are none."""
        calls, self._calls = self._calls, {}
        return calls


class _Ended(BaseException):
    """A crash, or want of memory, amid a case: not to be taken for the reference's refusal of it."""

    def __init__(self, error: MmtrtError) -> None:
        super().__init__(str(error))
        self.error = error


def _write_cases(heard: _Heard, subject: Subject, cases: Iterable[StressCase], part: Path) -> list[dict[str, Any]]:
    """Run the reference on each hard case just as a check would; return the rows of `record.json`."""
    side = Side(what=subject.what, runner=heard, precision=subject.precision)
    rows = []
    (part / "stress").mkdir()
    with ThreadPoolExecutor(1) as pool:
        for number, case in enumerate(cases):
            try:
                run_stress(pool, side, [], [case], Scales())
            except _Ended as ended:
                raise ended.error from ended
            rows.append(_write_case(case, heard.taken(), part / "stress" / f"{number:04d}.npz"))
    return rows


def _write_case(case: StressCase, calls: Mapping[str, dict[str, Array] | str], file: Path) -> dict[str, Any]:
    arrays = dict(case.feeds)
    for index, answer in enumerate(calls.values()):
        if not isinstance(answer, str):
            arrays |= {f"{call_prefix(index)}{name}": array for name, array in answer.items()}
    write_sample(file, arrays)
    return {
        "named": [asdict(one) for one in case.named],
        "sizes": dict(case.sizes),
        "how": case.how,
        "feeds": array_digest(case.feeds),
        "file": file.name,
        "calls": [{"feeds": fed, "error": answer if isinstance(answer, str) else ""} for fed, answer in calls.items()],
    }
