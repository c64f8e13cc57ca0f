"""Where a module comes from: `zoo:NAME`, `hf:DIR_OR_ID` or `package.module:factory`; what it tells of its inputs."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmtrt.artifacts import code_digest, file_digest
from mmtrt.errors import InputError, MachineError, MmtrtError, ModelError, UsageError
from mmtrt.export.checkpoint import load_weights
from mmtrt.export.masks import find_masks
from mmtrt.export.told import told_labels, told_preprocessing
from mmtrt.parts.declared import Pipeline
from mmtrt.preprocess import Preprocessing
from mmtrt.samples import Sample, import_object
from mmtrt.tensors import Array, TensorSpec

__all__ = ["Source", "load_source", "made_by", "source_from", "source_name"]

_EXTRA_KEYS = {"modalities", "outputs", "ranges", "samples", "masks", "preprocessing", "labels"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A trained module in eval mode, example inputs by name, and the names of its dynamic axes.

    `ranges` are those that the source tells; `samples` yields samples without the batch axis, where it can; `masks`
    maps an input that masks to the value that takes its events out of sight. `preprocessing` makes the inputs of raw
    things, and `labels` has the names of an output's classes, where told. `notes` tell how a checkpoint was read.
    """

    reference: str
    name: str
    module: torch.nn.Module = field(repr=False)
    examples: Mapping[str, Array] = field(repr=False)
    axes: Mapping[str, Mapping[int, str]]
    modalities: Mapping[str, tuple[str, ...]]
    outputs: tuple[str, ...] | None = None
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    samples: Callable[[], Iterable[Sample]] | None = field(default=None, repr=False)
    masks: Mapping[str, int] = field(default_factory=dict)
    preprocessing: Preprocessing | None = field(default=None, repr=False)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    checkpoint: str | None = None
    notes: tuple[str, ...] = ()
    digest: str = ""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the order of `forward`, dynamic axes by name."""
        return tuple(
            TensorSpec(
                name=name,
                dtype=str(array.dtype),
                shape=tuple(self.axes.get(name, {}).get(axis, size) for axis, size in enumerate(array.shape)),
            )
            for name, array in self.examples.items()
        )


def load_source(reference: str, checkpoint: Path | None = None) -> Source:
    """Load a source of one part, and a checkpoint's weights into it where one is given.

    InputError or UsageError that names what is wrong with either and how to mend it.
    """
    made, factory = made_by(reference, checkpoint)
    if isinstance(made, Pipeline):
        raise ModelError(
            f"{reference} is a model in several parts ({', '.join(made.parts)}), where one is wanted",
            fix="`mmtrt export` and `mmtrt run` take it whole; check and measure the files of its parts.",
        )
    return source_from(reference, source_name(reference), made, factory, checkpoint)


def made_by(reference: str, checkpoint: Path | None = None) -> tuple[Any, Callable[..., Any]]:
    """Call the factory that a reference names; return what it made, and the factory.

    UsageError before that where a checkpoint can't go into what it makes.
    """
    if checkpoint is not None and reference.startswith("hf:"):
        raise UsageError(
            f"the checkpoint {checkpoint} is given for {reference}: hf: takes its weights from its folder",
            fix="Leave it out, or let save_pretrained write these weights to a folder, and name that: hf:FOLDER.",
        )
    factory = _hugging_face(reference) or import_object(_resolve(reference))
    if not callable(factory):
        raise InputError(f"{reference} is no callable", fix="Name a function that returns (module, inputs).")
    try:
        return factory(), factory
    except (MmtrtError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{reference} failed: {type(error).__name__}: {error}",
            fix="It is called without arguments, in the current directory.",
        ) from error


def source_from(
    reference: str, name: str, made: Any, factory: Callable[..., Any], checkpoint: Path | None = None
) -> Source:
    """Return the source that a factory's `(module, inputs, dynamic_axes, extra)` describes, checked."""
    module, examples, axes, extra = _parts(reference, made)
    notes = load_weights(module, checkpoint) if checkpoint is not None else []
    samples = extra.get("samples")
    if samples is not None and not callable(samples):
        raise ModelError(f"{reference}: samples is a {type(samples).__name__}", fix="Give a function that yields them.")
    source = Source(
        reference=reference,
        name=name,
        module=module,
        examples=_in_forward_order(reference, module, examples),
        axes=axes,
        modalities=_modalities(reference, extra, examples),
        outputs=_outputs(reference, extra, examples),
        ranges={
            name: _span(reference, name, span)
            for name, span in _mapping(reference, "ranges", extra.get("ranges", {})).items()
        },
        samples=samples,
        masks=find_masks(reference, extra.get("masks"), examples),
        checkpoint=checkpoint.name if checkpoint is not None else None,
        notes=tuple(notes),
        digest=_digest(module, factory, checkpoint),
    )
    _check_axes(source)
    return replace(
        source,
        preprocessing=told_preprocessing(reference, extra, source.inputs),
        labels=told_labels(reference, extra, source.outputs),
    )


def _hugging_face(reference: str) -> Callable[[], Any] | None:
    """Return the factory of `hf:DIRECTORY_OR_ID`, None for any other reference."""
    kind, _, name = reference.partition(":")
    if kind != "hf":
        return None
    if find_spec("transformers") is None:
        raise MachineError("transformers is not installed", fix="pip install 'mmtrt[hf]'")
    return partial(import_object("mmtrt.export.hf.source:factory"), name)


def _resolve(reference: str) -> str:
    kind, _, rest = reference.partition(":")
    if kind == "zoo":
        registry: Mapping[str, str] = import_object("mmtrt.zoo:REGISTRY")
        if rest not in registry:
            near = get_close_matches(rest, registry, n=1)
            hint = f"Did you mean zoo:{near[0]}? " if near else ""
            raise UsageError(f"the zoo has no model {rest!r}", fix=f"{hint}It has {', '.join(sorted(registry))}.")
        return registry[rest]
    if not rest or not all(part.isidentifier() for part in f"{kind}.{rest}".split(".")):
        raise UsageError(
            f"{reference!r} names no model source",
            fix="Give zoo:NAME, hf:DIRECTORY_OR_ID, or package.module:factory (importable from the current directory).",
        )
    return reference


def source_name(reference: str) -> str:
    """Return what the files of a source are called."""
    kind, _, rest = reference.partition(":")
    if kind == "zoo":
        return rest
    if kind == "hf":
        return Path(rest).expanduser().resolve().name if Path(rest).expanduser().is_dir() else rest.rpartition("/")[2]
    module = kind.rsplit(".", 1)[-1]
    return module if rest in {"factory", "make", "build", "model", "load"} else f"{module}-{rest}"


def _parts(
    reference: str, made: Any
) -> tuple[torch.nn.Module, dict[str, Array], dict[str, dict[int, str]], dict[str, Any]]:
    fix = "It returns (module, inputs), (module, inputs, dynamic_axes) or (module, inputs, dynamic_axes, extra)."
    if not isinstance(made, tuple) or not 2 <= len(made) <= 4:
        raise ModelError(f"{reference} returned {type(made).__name__}", fix=fix)
    module, inputs, *rest = made
    if not isinstance(module, torch.nn.Module) or not isinstance(inputs, Mapping) or not inputs:
        raise ModelError(f"{reference} returned ({type(module).__name__}, {type(inputs).__name__})", fix=fix)
    for part, inner in module.named_modules():
        if inner.training:
            what = f"its part {part!r}" if part else "the module"
            raise ModelError(f"{reference}: {what} is in training mode", fix="Call .eval() in the factory, last.")
    examples = {name: _array(reference, name, value) for name, value in inputs.items()}
    for name, array in examples.items():
        if not array.ndim:
            raise ModelError(
                f"{reference}: example input {name!r} is a scalar", fix="Give each input a batch axis, of size 1 say."
            )
    axes: dict[str, dict[int, str]] = (
        {
            name: dict(_mapping(reference, f"dynamic_axes[{name!r}]", named))
            for name, named in _mapping(reference, "dynamic_axes", rest[0]).items()
        }
        if rest and rest[0] is not None
        else {name: {0: "batch"} for name in examples}
    )
    extra: dict[str, Any] = dict(_mapping(reference, "the fourth item", rest[1])) if len(rest) > 1 else {}
    for key in extra:
        if key not in _EXTRA_KEYS:
            near = get_close_matches(key, _EXTRA_KEYS, n=1)
            raise ModelError(
                f"{reference}: unknown key {key!r} in the factory's fourth item",
                fix=f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(_EXTRA_KEYS))}.",
            )
    return module, examples, axes, extra


def _mapping(reference: str, what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ModelError(
            f"{reference}: {what} is a {type(value).__name__}",
            fix="Give a dict; dynamic_axes is {input name: {axis: size name}}, ranges {size name: [min, opt, max]}.",
        )
    return value


def _array(reference: str, name: str, value: Any) -> Array:
    if isinstance(value, torch.Tensor):
        try:
            return value.detach().cpu().numpy()
        except TypeError:
            raise ModelError(
                f"{reference}: example input {name!r} is {value.dtype}, which numpy lacks",
                fix="Give the module float32 inputs and cast them inside.",
            ) from None
    if isinstance(value, np.ndarray):
        return value
    raise ModelError(
        f"{reference}: example input {name!r} is a {type(value).__name__}",
        fix="Give a tensor or a numpy array.",
    )


def _in_forward_order(reference: str, module: torch.nn.Module, examples: Mapping[str, Array]) -> dict[str, Array]:
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(examples)
    unknown = [name for name in examples if name not in parameters]
    if unknown:
        near = get_close_matches(unknown[0], parameters, n=1)
        raise ModelError(
            f"{reference}: forward has no argument {unknown[0]!r}",
            fix=f"Did you mean {near[0]!r}?" if near else f"It has {', '.join(parameters)}.",
        )
    return {name: examples[name] for name in parameters if name in examples}


def _modalities(reference: str, extra: Mapping[str, Any], examples: Mapping[str, Array]) -> dict[str, tuple[str, ...]]:
    told: Mapping[str, Sequence[str]] = _mapping(
        reference, "modalities", extra.get("modalities", {name: [name] for name in examples})
    )
    for modality, names in told.items():
        for name in names:
            if name not in examples:
                raise ModelError(f"{reference}: modality {modality!r} names {name!r}, which is no input")
    return {modality: tuple(names) for modality, names in told.items()}


def _outputs(reference: str, extra: Mapping[str, Any], examples: Mapping[str, Array]) -> tuple[str, ...] | None:
    names = extra.get("outputs")
    if names is None:
        return None
    listed = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not listed or len({*names, *examples}) != len(names) + len(examples):
        raise ModelError(
            f"{reference}: outputs is {names!r}", fix="Give a list of names, each once, none of them an input's."
        )
    return tuple(names)


def _span(reference: str, name: str, span: Any) -> tuple[int, int, int]:
    numbers = isinstance(span, Sequence) and len(span) == 3 and all(isinstance(size, int) for size in span)
    if not numbers or not 0 < span[0] <= span[1] <= span[2]:
        raise ModelError(
            f"{reference}: the range of {name!r} is {span!r}",
            fix="Give [min, opt, max] with 0 < min <= opt <= max.",
        )
    return (int(span[0]), int(span[1]), int(span[2]))


def _check_axes(source: Source) -> None:
    sizes: dict[str, tuple[int, str]] = {}
    for name, named in source.axes.items():
        if name not in source.examples:
            near = get_close_matches(name, source.examples, n=1)
            raise ModelError(
                f"{source.reference}: dynamic axes are given for {name!r}, which is no input",
                fix=f"Did you mean {near[0]!r}?" if near else f"Its inputs are {', '.join(source.examples)}.",
            )
        shape = source.examples[name].shape
        for axis, size_name in named.items():
            if axis not in range(len(shape)) or not isinstance(size_name, str):
                raise ModelError(
                    f"{source.reference}: input {name!r} has no axis {axis!r} to be called {size_name!r}",
                    fix=f"Its shape is {shape}; write {{axis: size name}}, {{0: 'batch'}} say.",
                )
            before = sizes.setdefault(size_name, (shape[axis], name))
            if before[0] != shape[axis]:
                raise ModelError(
                    f"{source.reference}: size {size_name!r} is {before[0]} in the example of {before[1]!r} and "
                    f"{shape[axis]} in that of {name!r}",
                    fix="A size name that two inputs share is one size.",
                )
    for name in source.ranges:
        if name not in sizes:
            near = get_close_matches(name, sizes, n=1)
            raise ModelError(
                f"{source.reference}: a range is given for {name!r}, which names no dynamic axis",
                fix=f"Did you mean {near[0]!r}?" if near else None,
            )


def _source_file(made: Any) -> str | None:
    """Return the file of a class or a function; of an object's or a partial's class or function where it is one."""
    try:
        return inspect.getsourcefile(made)
    except TypeError:
        if isinstance(made, type):
            return None  # Made at run time.
        return _source_file(getattr(made, "func", type(made)))


def _digest(module: torch.nn.Module, factory: Callable[..., Any], checkpoint: Path | None = None) -> str:
    """Digest of the weights and of the code of every class in the module: what its outputs depend on."""
    digest = hashlib.sha256(torch.__version__.encode())
    if checkpoint is not None:
        digest.update(file_digest(checkpoint).encode())
    for name, tensor in sorted(module.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)};".encode())
        if array.numel():
            # The buffer itself: bytes would be a copy of each weight.
            digest.update(memoryview(array.reshape(-1).view(torch.uint8).numpy()))
    files = {_source_file(type(part)) for part in module.modules()}
    files.add(_source_file(inspect.unwrap(factory)))
    torch_home = str(Path(torch.__file__).parent)
    for file in sorted(f for f in files if f and not f.startswith(torch_home)):
        digest.update(code_digest(Path(file)).encode())
    return digest.hexdigest()
