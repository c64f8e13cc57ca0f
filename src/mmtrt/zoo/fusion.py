"""Building blocks that fuse the tokens of two modalities."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmtrt.zoo.encoders import Attention, FeedForward, TransformerBlock


class CoAttentionBlock(nn.Module):
    """Image tokens attend to text and text tokens to the image, at once; then each modality works on its own.

    Image `(B, G, D)` and text `(B, T, D)` keep their shapes.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.image_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(width)
        self.image_to_text = Attention(width, heads)
        self.text_to_image = Attention(width, heads)
        self.image_feed_norm = nn.LayerNorm(width)
        self.image_feed = FeedForward(width, hidden)
        self.text_block = TransformerBlock(width, heads, hidden)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`mask` is additive over the text, `(B, 1, 1, T)`."""
        image_normed, text_normed = self.image_norm(image), self.text_norm(text)
        image = image + self.image_to_text(image_normed, text_normed, mask)
        text = text + self.text_to_image(text_normed, image_normed)
        return image + self.image_feed(self.image_feed_norm(image)), self.text_block(text, mask)


class CoAttentionFusion(nn.Module):
    """Co-attention blocks, then one vector `(B, 4 D)`: the first text token and three views of the image tokens.

    Their sum keeps counts; divided by the root of the number of tokens it is as large as one token. Two
    attention-weighted means (h = sum a_i x_i) keep a token each, with its place: a question may be about two things.
    """

    def __init__(self, width: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CoAttentionBlock(width, heads, hidden) for _ in range(blocks))
        self.image_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 2)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """`mask` is additive over the text, `(B, 1, 1, T)`."""
        for block in self.blocks:
            image, text = block(image, text, mask)
        tokens = self.image_norm(image)
        weights = torch.softmax(self.weigh(tokens).transpose(1, 2), dim=-1)
        chosen = torch.matmul(weights, tokens).flatten(1)
        pooled = tokens.sum(dim=1) * (1.0 / math.sqrt(image.shape[1]))
        return torch.cat([self.text_norm(text[:, 0]), pooled, chosen], dim=1)


class ModalityAttention(nn.Module):
    """One vector from several modalities, by learned weights: h = sum a_i x_i, `(B, M, D)` to `(B, D)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, modalities: Tensor) -> Tensor:
        """`a` is a softmax over the modalities of a score of each."""
        weights = torch.softmax(self.score(torch.tanh(modalities)), dim=1)
        return (weights * modalities).sum(dim=1)
