"""Multimodal classes of transformers from tiny configurations with random weights, as factories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import nn

Source = tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]
TEXT = {0: "batch", 1: "text"}
ROWS = {0: "batch"}
RANGES = {"batch": [1, 2, 3], "text": [2, 5, 12]}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "vocab_size": 99,
}


class Outputs(nn.Module):
    """Calls a model by keywords and gives some of its outputs, beside what it is always told."""

    def __init__(self, model: nn.Module, outputs: tuple[str, ...], fixed: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs
        self.fixed = dict(fixed or {})


def made(
    model: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: tuple[str, ...],
    axes: dict[str, dict[int, str]],
    **fixed: Any,
) -> Source:
    """A forward that takes exactly these inputs by name."""
    names = ", ".join(inputs)
    pairs = ", ".join(f"{name}={name}" for name in inputs)
    told: dict[str, Any] = {}
    exec(  # noqa: S102 -- forward's signature is what names a graph's inputs
        f"def forward(self, {names}):\n"
        f"    found = self.model({pairs}, **self.fixed)\n"
        f"    return tuple(getattr(found, name) for name in self.outputs)\n",
        told,
    )
    kind = type(type(model).__name__, (Outputs,), {"forward": told["forward"]})
    extra: dict[str, object] = {"outputs": list(outputs), "samples": _samples(inputs, axes)}
    sizes = {size for named in axes.values() for size in named.values()}
    extra["ranges"] = {name: span for name, span in RANGES.items() if name in sizes}
    return kind(model, outputs, fixed).eval(), inputs, axes, extra


def _samples(inputs: dict[str, torch.Tensor], axes: dict[str, dict[int, str]]) -> Callable[..., Any]:
    def samples(count: int = 8) -> Any:
        for index in range(count):
            rng = np.random.default_rng(index)
            length = int(rng.integers(RANGES["text"][0], RANGES["text"][2] + 1))
            sample = {}
            for name, tensor in inputs.items():
                shape = tuple(length if axes[name].get(i) == "text" else s for i, s in enumerate(tensor.shape))[1:]
                array = tensor.numpy()
                if array.dtype.kind == "f":
                    sample[name] = rng.standard_normal(shape).astype(np.float32)
                elif array.max(initial=0) <= 1:
                    sample[name] = np.ones(shape, dtype=array.dtype)
                    if name == "attention_mask" and index % 4:
                        sample[name][-(index % 4) :] = 0
                    if name == "attention_mask" and index % 5 == 4:
                        sample[name][...] = 0
                else:
                    sample[name] = rng.integers(1, 90, shape).astype(array.dtype)
            yield sample

    return samples


def text(rows: int = 2, length: int = 5, kinds: bool = False) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 90, (rows, length))
    mask = torch.ones(rows, length, dtype=torch.int64)
    mask[-1, -2:] = 0
    told = {"input_ids": ids, "attention_mask": mask}
    return {**told, "token_type_ids": torch.zeros_like(ids)} if kinds else told


def image(size: int = 32, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, size, size)


def ready(model: nn.Module) -> nn.Module:
    """Random weights far enough from zero that an error shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def with_text(inputs: dict[str, torch.Tensor]) -> dict[str, dict[int, str]]:
    worded = {"input_ids", "attention_mask", "token_type_ids"}
    return {name: TEXT if name in worded else ROWS for name in inputs}


def vilt(attention: str = "eager") -> Source:
    config = hf.ViltConfig(**SMALL, image_size=32, patch_size=8, max_image_length=-1, type_vocab_size=2)
    config._attn_implementation = attention
    inputs = {**text(kinds=True), "pixel_values": image(), "pixel_mask": torch.ones(2, 32, 32, dtype=torch.int64)}
    model = ready(hf.ViltModel(config))
    return made(model, inputs, ("pooler_output",), with_text(inputs))


def align() -> Source:
    config = hf.AlignConfig(
        text_config=SMALL,
        vision_config={
            "image_size": 32,
            "in_channels": [32, 16],
            "out_channels": [16, 32],
            "kernel_sizes": [3, 3],
            "strides": [2, 2],
            "num_block_repeats": [1, 1],
            "expand_ratios": [1, 6],
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "hidden_dim": 2560,
        },
        projection_dim=32,
    )
    inputs = {**text(kinds=True), "pixel_values": image()}
    return made(ready(hf.AlignModel(config)), inputs, ("text_embeds", "image_embeds"), with_text(inputs))


def blip_2(attention: str = "eager") -> Source:
    config = hf.Blip2Config(
        vision_config={**_kept("hidden_size", "intermediate_size"), **_layers(), "image_size": 32, "patch_size": 8},
        qformer_config={**SMALL, "encoder_hidden_size": 32, "use_qformer_text_input": True},
        text_config={**_kept("hidden_size", "vocab_size"), "model_type": "opt", "num_hidden_layers": 1},
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    config._attn_implementation = attention
    inputs = {**text(), "pixel_values": image()}
    model = ready(hf.Blip2ForImageTextRetrieval(config))
    return made(model, inputs, ("logits_per_image",), with_text(inputs), use_image_text_matching_head=True)


def grounding_dino() -> Source:
    config = hf.GroundingDinoConfig(
        backbone_config=hf.SwinConfig(
            image_size=32, patch_size=4, embed_dim=16, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=4,
            out_features=["stage2", "stage3"],
        ),
        text_config=hf.BertConfig(**SMALL),
        num_queries=6, encoder_layers=1, decoder_layers=2, d_model=32, encoder_ffn_dim=64, decoder_ffn_dim=64,
        encoder_attention_heads=4, decoder_attention_heads=4, num_feature_levels=3, encoder_n_points=2,
        decoder_n_points=2, max_text_len=12,
    )  # fmt: skip
    inputs = {
        **text(kinds=True),
        "pixel_values": image(64),
        "pixel_mask": torch.ones(2, 64, 64, dtype=torch.int64),
    }
    model = ready(hf.GroundingDinoForObjectDetection(config))
    return made(model, inputs, ("logits", "pred_boxes"), with_text(inputs))


def owlvit(attention: str = "eager") -> Source:
    config = hf.OwlViTConfig(
        text_config={**SMALL, "max_position_embeddings": 12, "bos_token_id": 97, "eos_token_id": 98},
        vision_config={**_kept("hidden_size", "intermediate_size"), **_layers(), "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    config._attn_implementation = attention
    inputs = {**text(), "pixel_values": image(rows=2)}
    model = ready(hf.OwlViTForObjectDetection(config))
    return made(model, inputs, ("logits", "pred_boxes"), with_text(inputs))


def _kept(*names: str) -> dict[str, Any]:
    return {name: SMALL[name] for name in names}


def _layers() -> dict[str, Any]:
    return _kept("num_hidden_layers", "num_attention_heads")
