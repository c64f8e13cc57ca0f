"""One small module of each kind that needs mending on its way to an engine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

Source = tuple[nn.Module, dict[str, torch.Tensor], dict[str, dict[int, str]], dict[str, object]]
TEXT = {0: "batch", 1: "text"}
RANGES = {"batch": [1, 2, 4], "text": [2, 5, 12]}


class MaskedText(nn.Module):
    """`x` `(B, T, 8)` and `mask` `(B, T)`, pooled where the mask is 1; `attend` mixes tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mixed = self.attend(self.inner(x), mask.bool())
        return self.head(torch.cat([mixed, x], dim=1)).sum(dim=1)


class BooleanMask(MaskedText):
    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=seen[:, None, None, :])
        return mixed.transpose(1, 2).flatten(2)


class InfiniteMask(MaskedText):
    filler = float("-inf")

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
        mask = torch.zeros(seen.shape).masked_fill(~seen, self.filler)[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)


class LowestMask(InfiniteMask):
    filler = torch.finfo(torch.float32).min


class OneHead(MaskedText):
    """Three axes, and as many queries as it pleases."""

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x, attn_mask=seen[:, None, :], scale=0.5)


class SharedHeads(MaskedText):
    """Four heads of queries share two of keys and values."""

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        query = x.unflatten(-1, (4, 2)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            query, query[:, :2], query[:, 2:], attn_mask=seen[:, None, None, :], enable_gqa=True
        )
        return mixed.transpose(1, 2).flatten(2)


class Causal(MaskedText):
    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x * seen[..., None], x, is_causal=True)


class CrossAttention(MaskedText):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(x, x * 0.5, x, key_padding_mask=~seen, need_weights=False)
        return mixed


class SelfAttention(CrossAttention):
    """The one that takes PyTorch's fused operator, which gives NaN for a row that sees nothing."""

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.attention(x, x, x, key_padding_mask=~seen, need_weights=False)
        return mixed


class Encoder(MaskedText):
    def __init__(self, *, nested: bool = False, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=nested)
        nn.init.uniform_(self.encoder.norm.bias)

    def attend(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self.encoder(x, src_key_padding_mask=~seen)


class FrozenEncoder(Encoder):
    """Needs no gradients, so PyTorch's fused layer is taken while it is traced too."""

    def __init__(self) -> None:
        super().__init__(norm_first=True)
        self.requires_grad_(requires_grad=False)


class PackingEncoder(Encoder):
    def __init__(self) -> None:
        super().__init__(nested=True)


MASKED = (
    BooleanMask, InfiniteMask, LowestMask, OneHead, SharedHeads, Causal, CrossAttention, SelfAttention, Encoder,
    FrozenEncoder, PackingEncoder,
)  # fmt: skip


class AllMasked(nn.Module):
    """Each kind on the same tokens, an output each."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kind() for kind in MASKED)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(kind(x, mask) for kind in self.kinds)


def texts(count: int = 12) -> Iterator[dict[str, np.ndarray]]:
    """Ragged, padded, every fifth wholly masked."""
    for index in range(count):
        rng = np.random.default_rng(index)
        length = int(rng.integers(2, 13))
        mask = np.ones(length, dtype=np.int64)
        mask[length - index % 3 :] = 0
        if index % 5 == 4:
            mask[:] = 0
        yield {"x": rng.standard_normal((length, 8)).astype(np.float32), "mask": mask}


def masked() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 5, 8), "mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])}
    extra: dict[str, object] = {
        "outputs": [kind.__name__ for kind in MASKED],
        "ranges": RANGES,
        "samples": texts,
    }
    return AllMasked().eval(), inputs, {"x": TEXT, "mask": TEXT}, extra


BAGS = (
    {"mode": "sum"}, {"mode": "mean"}, {"mode": "max"}, {"mode": "sum", "padding_idx": 0},
    {"mode": "mean", "padding_idx": 0}, {"mode": "max", "padding_idx": -20},
)  # fmt: skip


class Bags(nn.Module):
    """A history of `ids` `(B, T)` beside a dense `x` `(B, 4)`: how recommendation models begin."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, **kind) for kind in BAGS)
        self.head = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = [bag(ids) for bag in self.bags]
        weighted = self.bags[3](ids, per_sample_weights=torch.sigmoid(ids * 0.1 + x[:, :1]))
        return tuple(self.head(torch.cat([x, bag], dim=1)) for bag in (*kept, weighted))


class Delimited(Bags):
    """All histories of a batch in one row of `ids` `(N)`, with the place at which each starts, `(B)`."""

    def forward(self, x: torch.Tensor, ids: torch.Tensor, starts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = [bag(ids, starts) for bag in self.bags]
        weighted = self.bags[3](ids, starts, per_sample_weights=torch.sigmoid(ids * 0.1))
        return tuple(self.head(torch.cat([x, bag], dim=1)) for bag in (*kept, weighted))


def bags() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 4), "ids": torch.tensor([[1, 2, 3, 0, 0], [4, 0, 5, 0, 6]])}
    return Bags().eval(), inputs, {"x": {0: "batch"}, "ids": TEXT}, {"ranges": RANGES}


def delimited() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 4), "ids": torch.tensor([1, 2, 3, 0, 0, 4, 7]), "starts": torch.tensor([0, 3, 3])}
    axes = {"x": {0: "batch"}, "ids": {0: "all"}, "starts": {0: "batch"}}
    return Delimited().eval(), inputs, axes, {"ranges": {"batch": [1, 3, 3], "all": [7, 7, 20]}}


class Places(nn.Module):
    """`x` `(B, T, 8)`: where values lie among edges, what was largest so far, and whether all is well."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Buffer(torch.linspace(-1, 1, 6))
        self.words = nn.Embedding(9, 8)
        self.inner = nn.Linear(8, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rising = torch.cumsum(functional.softplus(x), dim=2)
        places = torch.searchsorted(self.edges, x) + torch.bucketize(x, self.edges, right=True)
        among = torch.searchsorted(rising, x * 4, side="right", out_int32=True)
        largest, where = x.cummax(dim=1)
        lowest, _ = (x * x).round().to(torch.int64).cummin(dim=-1)
        ever = (x > 0.5).cummax(dim=1)[0]
        well = torch.ops.aten._is_all_true(x > -9) & ~torch.ops.aten._is_any_true(x > 9)
        mixed = self.inner(self.words(among.clamp(max=8)).mean(dim=2) + largest + lowest + ever)
        return self.head(torch.relu(mixed) * well), places, where


def places() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 5, 8).round(decimals=1)}
    extra: dict[str, object] = {"outputs": ["y", "places", "where"], "ranges": RANGES}
    return Places().eval(), inputs, {"x": TEXT}, extra


class Windows(nn.Module):
    """Attention in windows of an image `(B, 8, 8, 8)`, with learned positions and a mask for each window."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(1, 2, 16, 16))
        self.out = nn.Linear(8, 8)
        hidden = torch.zeros(4, 16, 16)
        hidden[1:, 8:, :8] = -100.0
        self.hidden = nn.Buffer(hidden)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows = image.shape[0]
        windows = image.view(rows, 2, 4, 2, 4, 8).transpose(2, 3).reshape(-1, 16, 8)
        parts = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(windows).chunk(3, -1))
        mask = self.hidden[None, :, None].expand(rows, -1, -1, -1, -1).reshape(-1, 1, 16, 16)
        mixed = functional.scaled_dot_product_attention(*parts, attn_mask=self.bias + mask)
        mixed = mixed.transpose(1, 2).contiguous().reshape(*windows.shape[:-1], -1).contiguous()
        return torch.tanh(self.out(mixed)).view(rows, 4, 16, 8).mean(dim=2)


def windows() -> Source:
    torch.manual_seed(0)
    extra: dict[str, object] = {"outputs": ["y"], "ranges": {"batch": [1, 2, 4]}}
    return Windows().eval(), {"image": torch.randn(2, 8, 8, 8)}, {"image": {0: "batch"}}, extra


class Grid(nn.Module):
    """Images of any size up to `(24, 32)` in one batch, told by `pixel_mask`: positions are stretched over each."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv2d(3, 16, 8, stride=8)
        self.position_embeddings = nn.Parameter(torch.randn(1, 1 + 25, 16))
        self.cls_token = nn.Parameter(torch.randn(1, 1, 16))
        self.dropout = nn.Dropout(0.1)
        self.key = nn.Linear(16, 16)
        self.head = nn.Linear(16, 3)

    def visual_embed(
        self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor, max_image_length: int = 200
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """As a batch of one is treated where images differ in size, one after the other."""
        patches = self.patch_embeddings(pixel_values)
        mask = functional.interpolate(pixel_mask[:, None].float(), size=patches.shape[2:])[:, 0]
        heights, widths = mask[:, :, 0].sum(dim=1).long(), mask[:, 0, :].sum(dim=1).long()
        assert int((heights * widths).max()) <= max_image_length
        table = self.position_embeddings[:, 1:].transpose(1, 2).unflatten(-1, (5, 5))
        stretched = []
        for height, width in zip(heights.tolist(), widths.tolist(), strict=True):
            one = functional.interpolate(table, size=(height, width), mode="bilinear", align_corners=True)
            stretched.append(functional.pad(one, (0, mask.shape[2] - width, 0, mask.shape[1] - height)))
        tokens = (patches + torch.cat(stretched)).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.position_embeddings[:, :1]).expand(len(tokens), -1, -1)
        seen = torch.cat([torch.ones_like(mask[:, 0, :1]), mask.flatten(1)], dim=1).long()
        return self.dropout(torch.cat([first, tokens], dim=1)), seen, None

    def forward(self, pixel_values: torch.Tensor, pixel_mask: torch.Tensor) -> torch.Tensor:
        tokens, seen, _ = self.visual_embed(pixel_values, pixel_mask)
        scores = (self.key(tokens) * tokens[:, :1]).sum(dim=-1)
        share = torch.softmax(scores.masked_fill(seen == 0, -1e9), dim=1)
        return self.head((share[..., None] * tokens).sum(dim=1))


def grid() -> Source:
    torch.manual_seed(0)
    inputs = {"pixel_values": torch.randn(2, 3, 24, 32), "pixel_mask": torch.ones(2, 24, 32, dtype=torch.int64)}
    rows = {"pixel_values": {0: "batch"}, "pixel_mask": {0: "batch"}}
    return Grid().eval(), inputs, rows, {"outputs": ["y"], "ranges": {"batch": [1, 2, 4]}}


class Queries(nn.Module):
    """Three learned queries look at `x` `(B, T, 8)`, with a mask made for the queries and the text behind them."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig

        self.config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, vocab_size=9)
        self.config._attn_implementation = "eager"
        self.queries = nn.Parameter(torch.randn(1, 3, 8))
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from transformers.masking_utils import create_bidirectional_mask

        queries = self.queries.expand(x.shape[0], -1, -1)
        both = torch.cat([queries, x], dim=1)
        hidden = create_bidirectional_mask(
            config=self.config, inputs_embeds=both, attention_mask=torch.ones_like(mask), encoder_hidden_states=x
        )
        scores = (queries @ self.inner(x).transpose(1, 2))[:, None]
        share = torch.softmax(scores if hidden is None else scores + hidden, dim=-1)[:, 0]
        return self.head(torch.tanh(share @ (x * mask[..., None]))).mean(dim=1)


def queries() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 5, 8), "mask": torch.ones(2, 5, dtype=torch.int64)}
    return Queries().eval(), inputs, {"x": TEXT, "mask": TEXT}, {"outputs": ["y"], "ranges": RANGES}


class Pairs(nn.Module):
    """Refuses texts `(B, T, 8)` and images `(B, 4)` that are not as many."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 16)
        self.head = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        if len(x) != len(image):
            raise ValueError
        text = torch.relu(self.inner(x)).mean(dim=1)
        return torch.tanh(self.head(torch.cat([text, image], dim=1)))


def pairs() -> Source:
    torch.manual_seed(0)
    inputs = {"x": torch.randn(2, 5, 8), "image": torch.randn(2, 4)}
    return Pairs().eval(), inputs, {"x": TEXT, "image": {0: "batch"}}, {"outputs": ["y"], "ranges": RANGES}
