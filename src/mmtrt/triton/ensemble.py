"""The parts of a pipeline as one model: Triton hands their tensors on by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mmtrt.errors import ModelError, RecipeError
from mmtrt.parts.wiring import Port, Wiring
from mmtrt.tensors import ModelSpec, TensorSpec
from mmtrt.triton.config import tensor_fields, version_policy
from mmtrt.triton.pbtxt import Message
from mmtrt.triton.shapes import Batching, batching

__all__ = ["check_no_step", "ensemble_batching", "ensemble_config", "ensemble_spec"]


def check_no_step(name: str, wiring: Wiring, written: Sequence[str] = ()) -> None:
    """Raise RecipeError at a decoder that runs on its own tokens: an ensemble runs each part once.

    `written` are the models of the parts, where they lie in the repository already.
    """
    if wiring.step is not None:
        told = f"; its parts are written, {', '.join(written)}" if written else ""
        raise RecipeError(
            f"{name} can't be an ensemble: {wiring.step.part!r} is run again and again on the token that it chose, "
            f"and an ensemble runs each of its models once{told}",
            fix="Let the client loop over it, as examples/triton/generate.py does, or a model of Triton's Python "
            "backend; ensemble = false in [triton] writes the parts without this error.",
        )


def ensemble_batching(wiring: Wiring) -> Batching:
    """Return what all parts take together: the least of them, 0 where one takes requests as they come."""
    found = {part: batching(spec) for part, spec in wiring.parts.items()}
    for part, batch in found.items():
        if not batch:
            return Batching(largest=0, why=f"{part!r} takes requests as they come: {batch.why}")
    return Batching(largest=min(batch.largest for batch in found.values()))


def ensemble_spec(wiring: Wiring) -> ModelSpec:
    """Return the inputs and outputs of the whole."""
    outputs = [_renamed(wiring, name, port) for name, port in wiring.outputs.items()]
    return ModelSpec(inputs=wiring.inputs, outputs=tuple(outputs), ranges=wiring.ranges)


def ensemble_config(name: str, wiring: Wiring, models: Mapping[str, str], *, version: int, keep: int) -> Message:
    """Return the configuration of the whole; `models` maps a part to its model, of which `version` is run.

    RecipeError where a part is run more than once, ModelError where Triton can't name or hand on a tensor.
    """
    check_no_step(name, wiring)
    spec, batch = ensemble_spec(wiring), ensemble_batching(wiring)
    _check_alone(wiring, batch)
    names = _tensor_names(name, wiring)
    tensors = [("input", tensor) for tensor in spec.inputs] + [("output", tensor) for tensor in spec.outputs]
    return Message(
        (
            ("name", name),
            ("platform", "ensemble"),
            ("max_batch_size", batch.largest),
            # No reshape: a part has done it where it has to be, and an ensemble's tensors are those of requests.
            *((side, Message(tensor_fields(tensor, batch))) for side, tensor in tensors),
            version_policy(keep),
            (
                "ensemble_scheduling",
                Message(tuple(("step", _step(wiring, part, models[part], names, version)) for part in wiring.parts)),
            ),
        )
    )


def _step(wiring: Wiring, part: str, model: str, names: Mapping[Port, str], version: int) -> Message:
    spec = wiring.parts[part]
    links = {target.tensor: source for target, source in wiring.links.items() if target.part == part}
    taken = {t.name: names[links[t.name]] if t.name in links else t.name for t in spec.inputs}
    given = {t.name: names[Port(part, t.name)] for t in spec.outputs}
    return Message(
        (
            ("model_name", model),
            ("model_version", version),
            *(("input_map", Message((("key", key), ("value", value)))) for key, value in taken.items()),
            *(("output_map", Message((("key", key), ("value", value)))) for key, value in given.items()),
        )
    )


def _tensor_names(name: str, wiring: Wiring) -> dict[Port, str]:
    """Name each part's outputs within the ensemble: those of the pipeline as they are called, others by their part."""
    taken = {tensor.name for tensor in wiring.inputs}
    for output in wiring.outputs:
        if output in taken:
            raise ModelError(
                f"{name}: {output!r} is an input and an output, and in an ensemble that is one tensor",
                fix="Call one of the two otherwise.",
            )
    for port, count in Counter(wiring.outputs.values()).items():
        if count > 1:
            raise ModelError(
                f"{name}: {port} is an output under two names, and an ensemble has one for it",
                fix="Name it once among the pipeline's outputs.",
            )
    names = {port: output for output, port in wiring.outputs.items()}
    taken |= set(wiring.outputs)
    for part, spec in wiring.parts.items():
        for tensor in spec.outputs:
            port = Port(part, tensor.name)
            if port not in names:
                found = str(port)
                while found in taken:
                    found += "_"
                taken.add(found)
                names[port] = found
    return names


def _check_alone(wiring: Wiring, batch: Batching) -> None:
    """Raise ModelError where a tensor has a batch axis alone, and parts differ on whether requests are put together."""
    if batch:
        return
    for part, spec in wiring.parts.items():
        if not batching(spec):
            continue
        for tensor in (*spec.inputs, *spec.outputs):
            if len(tensor.shape) == 1:
                raise ModelError(
                    f"{part}.{tensor.name} has a batch axis alone, and {batch.why}: Triton can't hand it on",
                    fix="Give it a second axis, of size 1.",
                )


def _renamed(wiring: Wiring, name: str, port: Port) -> TensorSpec:
    found = next(t for t in wiring.parts[port.part].outputs if t.name == port.tensor)
    return replace(found, name=name)
