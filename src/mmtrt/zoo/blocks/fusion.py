"""Building blocks that fuse modalities: for the zoo's models, and for your own.

| block | kind | in | out |
|---|---|---|---|
| `EarlyFusion` | concatenated features | tokens `(B, T_i, D)` each | tokens `(B, T_i, D)` each |
| `LateFusion` | weighted sum of predictions | predictions `(B, M, K)` | `(B, K)` |
| `ModalityAttention` | learned weights per modality | vectors `(B, M, D)` | `(B, D)` |
| `CoAttentionFusion` | both attend to each other | tokens `(B, G, D)` and `(B, T, D)` | `(B, 4 D)` |
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmtrt.zoo.blocks.encoders import Attention, FeedForward, TransformerBlock


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


class Readout(nn.Module):
    """One vector `(B, 4 D)` from fused tokens: the first text token and three views of the image tokens.

    Their sum keeps counts; divided by the root of the number of tokens it is as large as one token. Two
    attention-weighted means (h = sum a_i x_i) keep a token each, with its place: a question may be about two things.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.image_norm = nn.LayerNorm(width)
        self.text_norm = nn.LayerNorm(width)
        self.weigh = nn.Linear(width, 2)

    def read(self, image: Tensor, text: Tensor) -> Tensor:
        """Image tokens `(B, G, D)` and text tokens `(B, T, D)` to `(B, 4 D)`."""
        tokens = self.image_norm(image)
        weights = torch.softmax(self.weigh(tokens).transpose(1, 2), dim=-1)
        chosen = torch.matmul(weights, tokens).flatten(1)
        pooled = tokens.sum(dim=1) * (1.0 / math.sqrt(image.shape[1]))
        return torch.cat([self.text_norm(text[:, 0]), pooled, chosen], dim=1)


class CoAttentionFusion(Readout):
    """Co-attention blocks, then the readout: image `(B, G, D)` and text `(B, T, D)` to one vector `(B, 4 D)`."""

    def __init__(self, width: int, heads: int, hidden: int, blocks: int) -> None:
        super().__init__(width)
        self.blocks = nn.ModuleList(CoAttentionBlock(width, heads, hidden) for _ in range(blocks))

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> Tensor:
        """`mask` is additive over the text, `(B, 1, 1, T)`."""
        for block in self.blocks:
            image, text = block(image, text, mask)
        return self.read(image, text)


class EarlyFusion(nn.Module):
    """Features of all modalities concatenated to one sequence, which transformer blocks work on as if it were one.

    M sequences of tokens `(B, T_i, D)` to M sequences of the same shapes.
    """

    def __init__(self, width: int, heads: int, hidden: int, blocks: int, modalities: int) -> None:
        super().__init__()
        self.kinds = nn.Parameter(torch.empty(modalities, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, hidden) for _ in range(blocks))
        nn.init.normal_(self.kinds, std=0.1)

    def forward(self, modalities: Sequence[Tensor], masks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """`masks` are additive, `(B, 1, 1, T_i)` each; where all is there, zeros."""
        lengths = [tokens.shape[1] for tokens in modalities]
        marked = [tokens + self.kinds[i] for i, tokens in enumerate(modalities)]
        joint, mask = torch.cat(marked, dim=1), torch.cat(list(masks), dim=3)
        for block in self.blocks:
            joint = block(joint, mask)
        return torch.split(joint, lengths, dim=1)


class LateFusion(nn.Module):
    """Predictions of M modalities, each made alone, to one by a weighted sum: y = sum w_i y_i.

    `(B, M, K)` to `(B, K)`. The weights are learned, one a modality, positive, of sum 1.
    """

    def __init__(self, modalities: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.zeros(modalities))

    def forward(self, predictions: Tensor) -> Tensor:
        """`w` is a softmax over the modalities' learned scores."""
        weights = torch.softmax(self.score, dim=0)
        return (weights[:, None] * predictions).sum(dim=1)


class ModalityAttention(nn.Module):
    """One vector from several modalities, by learned weights: h = sum a_i x_i, `(B, M, D)` to `(B, D)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)

    def forward(self, modalities: Tensor) -> Tensor:
        """`a` is a softmax over the modalities of a score of each."""
        weights = torch.softmax(self.score(torch.tanh(modalities)), dim=1)
        return (weights * modalities).sum(dim=1)


class GuidedPooling(nn.Module):
    """Tokens `(B, G, D)` to two vectors `(B, 2, D)`, guided by a vector `(B, D)`: which token it means, and how many.

    The first is attention, whose weights sum to 1; in the second each token counts or not by itself, which keeps
    numbers. The guide may come from another modality, so that each modality still becomes a vector of its own.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.guide_norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.choose = Attention(width, heads)
        self.gate = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, tokens: Tensor, guide: Tensor) -> Tensor:
        """The chosen and the counted."""
        tokens, guide = self.token_norm(tokens), self.guide_norm(guide)[:, None]
        chosen = self.choose(guide, tokens)
        fits = torch.matmul(tokens, self.gate(guide).transpose(1, 2)) * (1.0 / math.sqrt(tokens.shape[2]))
        counted = (torch.sigmoid(fits) * self.value(tokens)).sum(dim=1, keepdim=True)
        return torch.cat([chosen, counted * (1.0 / math.sqrt(tokens.shape[1]))], dim=1)
