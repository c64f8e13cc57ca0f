"""Images of many sizes in one batch, their positions interpolated image by image in a loop, without the loop.

Looks for a part with the method `visual_embed(pixel_values, pixel_mask, max_image_length)` over `patch_embeddings`,
`position_embeddings` `(1, 1 + P * P, D)` and `cls_token`: how ViLT, and what is built on its code, takes images. The
method resizes the table of positions for each image to the size that its mask leaves, and draws a batch's patches
together by their number. Neither sizes nor counts that depend on values can be exported.

1. Bilinear interpolation is a product with hat functions on each axis: `rows (B, H, P)` and `columns (B, W, P)` times
   the table, all images at once. What an image doesn't cover has no position, as before.
2. Every patch of the grid stays a token, in the grid's order, and the mask that is returned hides those that an image
   doesn't cover. The method keeps what is covered in an order that it draws at random, and pads at random: what is
   attended to is the same, so pooled outputs and other tokens are. Only the order of the patches' own tokens differs.
3. A limit on patches below the grid's size would drop some at random: such a module is left as it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from mmtrt.export.patches.replacing import replaced

__all__ = ["patched"]

_PARTS = ("visual_embed", "patch_embeddings", "position_embeddings", "cls_token", "dropout")


@contextlib.contextmanager
def patched(module: nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """Apply the rules above while the context lasts."""
    with contextlib.ExitStack() as stack:
        for part in module.modules():
            if all(hasattr(part, name) for name in _PARTS) and _is_square(part.position_embeddings):
                stack.enter_context(replaced(part, "visual_embed", _Grid(part, tell)))
        yield


def _is_square(table: Any) -> bool:
    return (
        isinstance(table, torch.Tensor)
        and table.dim() == 3
        and math.isqrt(table.shape[1] - 1) ** 2 + 1 == (table.shape[1])
    )


class _Grid:
    """Stands in for the `visual_embed` of one module."""

    def __init__(self, part: Any, tell: Callable[[], None]) -> None:
        self.part = part
        self.tell = tell
        self.original = part.visual_embed

    def __call__(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int | None = 200
    ) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Return tokens `(B, 1 + H * W, D)`, their mask, and the patches' places with the grid's size."""
        patches = self.part.patch_embeddings(pixel_values)
        batch, _, height, width = patches.shape
        if isinstance(max_image_length, int) and 0 <= max_image_length < height * width:
            return self.original(pixel_values, pixel_mask, max_image_length=max_image_length)
        self.tell()
        mask = nn.functional.interpolate(pixel_mask[:, None].float(), size=(height, width))[:, 0].long()
        first, rest = self.part.position_embeddings[:, :1], self.part.position_embeddings[:, 1:]
        positions = _positions(rest, mask)
        tokens = torch.cat([self.part.cls_token.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + torch.cat([first.expand(batch, -1, -1), positions], dim=1)
        seen = torch.cat([torch.ones_like(mask[:, 0, :1]), mask.flatten(1)], dim=1)
        places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), dim=-1)
        places = places.flatten(0, 1)[None].expand(batch, -1, -1).to(mask.device)
        return self.part.dropout(tokens), seen, (places, (height, width))


def _positions(table: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Resize a table `(1, P * P, D)` to what each mask `(B, H, W)` covers: `(B, H * W, D)`."""
    side = math.isqrt(table.shape[1])
    rows = _hats(mask[:, :, 0].sum(dim=1), mask.shape[1], side)
    columns = _hats(mask[:, 0, :].sum(dim=1), mask.shape[2], side)
    by_row = rows @ table.reshape(1, side, -1)
    by_row = by_row.unflatten(-1, (side, -1))
    return (columns[:, None] @ by_row).flatten(1, 2)


def _hats(covered: torch.Tensor, size: int, side: int) -> torch.Tensor:
    """Weights `(B, size, side)` that stretch `side` positions over the `covered` `(B)` first of `size` places."""
    places = torch.arange(size, device=covered.device, dtype=torch.float32)
    # Corners are aligned: the last place of the image has the last position.
    scale = (side - 1) / (covered - 1).clamp(min=1).float()
    distance = (places * scale[:, None])[..., None] - torch.arange(side, device=covered.device, dtype=torch.float32)
    inside = places < covered[:, None]
    return (1 - distance.abs()).clamp(min=0) * inside[..., None]
