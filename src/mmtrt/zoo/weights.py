"""Weights that others trained, for the encoders of `vqa-r18-bert`, `vqa-r50-bert` and `vqa-r101-bert`.

    from mmtrt.zoo.models.vqa_bert import vqa_r101_bert
    from mmtrt.zoo.weights import load_pretrained

    def factory():
        model, *rest = vqa_r101_bert()
        return load_pretrained(model, image="resnet101.pth", text="bert-base-uncased/model.safetensors"), *rest

`mmtrt export my_models:factory` then exports it. The image's file has torchvision's names, as `resnet101` saves them;
the text's has those of Hugging Face's `BertModel`, or of a model around one. Fusion and heads stay as they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmtrt.errors import ModelError

__all__ = ["bert_weights", "load_pretrained", "resnet_weights"]

Model = TypeVar("Model", bound=nn.Module)
Weights = dict[str, Tensor]

_SHOWN: Final = 6
_RESNET_UNUSED: Final = r"fc\.(weight|bias)"
_BERT_UNUSED: Final = r"embeddings\.(position_ids|token_type_ids)|pooler\..*|cls\..*"
_BERT_EMBEDDINGS: Final = {
    "embeddings.word_embeddings.weight": "word_embeddings.weight",
    "embeddings.position_embeddings.weight": "position_embeddings",
    "embeddings.token_type_embeddings.weight": "segment",
    "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias",
}
_BERT_LAYER: Final = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "feed_norm",
}


def load_pretrained(model: Model, *, image: str | Path | None = None, text: str | Path | None = None) -> Model:
    """Put trained weights into `model.image_encoder` and `model.text_encoder`; returns the model, in eval mode.

    A file is safetensors, or a state dict that torch saved. ModelError names the keys where a file leaves a weight
    of the encoder out, holds one that has no place in it, or one of another shape; the model is then unchanged.
    """
    found = []
    for path, part, convert in ((image, "image_encoder", resnet_weights), (text, "text_encoder", bert_weights)):
        if path is not None:
            encoder = model.get_submodule(part)
            found.append((encoder, _fitted(encoder, convert(_read(Path(path))), str(path))))
    for encoder, weights in found:
        encoder.load_state_dict(weights)
    return model.eval()


def resnet_weights(weights: Mapping[str, Tensor]) -> Weights:
    """Rename a state dict of torchvision's ResNet to ours: the same names, without the classifier `fc`."""
    return {name: w for name, w in _plain(weights, ()).items() if not re.fullmatch(_RESNET_UNUSED, name)}


def bert_weights(weights: Mapping[str, Tensor]) -> Weights:
    """Rename a state dict of Hugging Face's BERT to ours, without pooler and pretraining heads.

    Of the segments the first is kept, which is what one sentence has. A name that is not known stays as it is.
    """
    renamed = {}
    for name, tensor in _plain(weights, ("bert.",)).items():
        known = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
        if not re.fullmatch(_BERT_UNUSED, known):
            ours = _BERT_EMBEDDINGS.get(known) or _layer_name(known)
            renamed[ours] = tensor[0] if ours == "segment" else tensor
    return renamed


def _layer_name(name: str) -> str:
    layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer is None or layer[2] not in _BERT_LAYER:
        return name
    return f"blocks.{layer[1]}.{_BERT_LAYER[layer[2]]}.{layer[3]}"


def _plain(weights: Mapping[str, Tensor], wrappers: Sequence[str]) -> Weights:
    """Names without what models around it, or training on several devices, put in front."""
    names = dict(weights)
    for prefix in ("module.", *wrappers):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


def _read(path: Path) -> Weights:
    """Read a file of weights; ModelError where it is none."""
    read: Callable[[Path], Any] = load_file if path.suffix == ".safetensors" else _load
    try:
        found = read(path)
    except FileNotFoundError as error:
        raise ModelError(f"there is no file of weights {path}") from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        fix = "Give a .safetensors file, or a state dict saved by torch.save(model.state_dict(), path)."
        raise ModelError(f"{path} holds no weights: {error}", fix=fix) from error
    state = found.get("state_dict", found) if isinstance(found, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} holds no state dict", fix="Save one: torch.save(model.state_dict(), path).")
    return dict(state)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _fitted(encoder: nn.Module, weights: Weights, source: str) -> Weights:
    """The weights that `encoder` takes, all of them; ModelError where they are not just those of the file."""
    own = encoder.state_dict()
    # How many batches were seen matters to further training only; older files leave it out.
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    given = counters | weights
    wrong = {
        "left out": [n for n in own if n not in given],
        "not of this encoder": [n for n in given if n not in own],
        "of another shape": [
            f"{n} {tuple(given[n].shape)} for {tuple(v.shape)}"
            for n, v in own.items()
            if n in given and given[n].shape != v.shape
        ],
    }
    if any(wrong.values()):
        told = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong.items() if names)
        fix = "Give the file of the very same architecture: torchvision's ResNet of this depth, BERT of this size."
        raise ModelError(f"{source} does not fit {type(encoder).__name__}: {told}", fix=fix)
    return given


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
