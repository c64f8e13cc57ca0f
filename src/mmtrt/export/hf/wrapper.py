"""A model whose inputs and outputs have names: what the exporter is given."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Named", "facts_of", "named", "told_of"]

Inputs = dict[str, Tensor]
_UNWANTED = re.compile(r"loss|past_key_values|.*_model_output")


def told_of(config: Any, *files: Mapping[str, Any]) -> str:
    """Return what a configuration and files beside it say, in JSON; where they lie is left out."""
    return json.dumps([_placeless(config.to_dict()), *map(dict, files)], default=str, sort_keys=True)


def _placeless(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _placeless(value) for key, value in data.items() if key != "_name_or_path"}
    return data


def facts_of(told: str) -> Tensor:
    """Digest, `(32,)`, of what a module's outputs depend on beside its weights: a buffer that no graph holds."""
    return torch.tensor(list(hashlib.sha256(told.encode()).digest()), dtype=torch.uint8)


class Named(nn.Module):
    """Calls a model by name, and returns its outputs of interest as a tuple, in the order of `outputs`.

    `facts` holds the digest of what its outputs depend on beside the weights, so that it counts among the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        constants: Mapping[str, Any],
        adapt: Callable[[Any, Inputs], Inputs] | None,
        told: str,
    ) -> None:
        super().__init__()
        self.model = model
        self.constants = dict(constants)
        self.adapt = adapt
        self.outputs: tuple[str, ...] = ()
        self.register_buffer("facts", facts_of(told))

    def call(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return all outputs that are tensors, by name."""
        given = self.adapt(self.model, inputs) if self.adapt else inputs
        found = self.model(**given, **self.constants)
        if isinstance(found, Tensor):
            return {"output": found}
        rows = found.items() if isinstance(found, Mapping) else ((f"output_{i}", v) for i, v in enumerate(found))
        return {name: value for name, value in rows if isinstance(value, Tensor) and not _UNWANTED.fullmatch(name)}

    def run(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Return the outputs of interest."""
        found = self.call(inputs)
        return tuple(found[name] for name in self.outputs)


def named(
    model: nn.Module,
    names: Sequence[str],
    *,
    constants: Mapping[str, Any],
    adapt: Callable[[Any, Inputs], Inputs] | None = None,
    told: str = "",
) -> Named:
    """Wrap a model in a module whose `forward` has the inputs as its parameters: exporters read the signature."""
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, plain) for name in ("self", *names)])

    def forward(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        given = dict(signature.bind(*args, **kwargs).arguments)
        module: Named = given.pop("self")
        return module.run(given)

    forward.__signature__ = signature  # type: ignore[attr-defined]
    kind = type("Named", (Named,), {"forward": forward, "__module__": __name__, "__doc__": Named.__doc__})
    made: Named = kind(model, constants=constants, adapt=adapt, told=told)
    return made.eval()
