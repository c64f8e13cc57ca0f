"""BERT as a text encoder (Devlin et al. 2018, arXiv:1810.04805): normalised after each sublayer, learned positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmtrt.zoo.blocks.encoders import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """Sizes; the defaults are those of BERT-base, uncased."""

    words: int = 30522
    positions: int = 512
    width: int = 768
    heads: int = 12
    hidden: int = 3072
    blocks: int = 12


class BertBlock(nn.Module):
    """Self-attention and feed-forward, each added and then normalised: `(B, T, D)` to `(B, T, D)`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width, eps=1e-12)
        self.expand = nn.Linear(config.width, config.hidden)
        self.contract = nn.Linear(config.hidden, config.width)
        self.feed_norm = nn.LayerNorm(config.width, eps=1e-12)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """`mask` is additive, `(B, 1, 1, T)`."""
        tokens = self.attention_norm(tokens + self.attention(tokens, tokens, mask))
        result: Tensor = self.feed_norm(tokens + self.contract(functional.gelu(self.expand(tokens))))
        return result


class Bert(nn.Module):
    """Token ids `(B, T)` to tokens `(B, T, D)`; one segment."""

    def __init__(self, config: BertConfig | None = None) -> None:
        super().__init__()
        c = config or BertConfig()
        self.config = c
        self.word_embeddings = nn.Embedding(c.words, c.width)
        self.position_embeddings = nn.Parameter(torch.empty(c.positions, c.width))
        self.segment = nn.Parameter(torch.empty(c.width))
        self.norm = nn.LayerNorm(c.width, eps=1e-12)
        self.blocks = nn.ModuleList(BertBlock(c) for _ in range(c.blocks))
        for weight in (self.word_embeddings.weight, self.position_embeddings, self.segment):
            nn.init.normal_(weight, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`mask` is additive, `(B, 1, 1, T)`; T is at most `config.positions`."""
        tokens: Tensor = self.norm(self.word_embeddings(ids) + self.position_embeddings[: ids.shape[1]] + self.segment)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return tokens
