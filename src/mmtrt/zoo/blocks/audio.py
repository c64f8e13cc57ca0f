"""Building blocks that turn a spectrogram into tokens; padding frames change nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AudioEncoder"]


class MaskedConv(nn.Module):
    """Conv-BN-ReLU on a spectrogram, 0 again in padding: `(B, C, M, F)` to `(B, C', M / stride, F / stride)`."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor, keep: Tensor) -> Tensor:
        """`keep` is `(B, 1, 1, F / stride)`, 1 or 0: a convolution would carry its bias, and the padding, back in."""
        return functional.relu(self.norm(self.conv(features))) * keep


class AudioEncoder(nn.Module):
    """A log-mel spectrogram `(B, 1, M, F)` to one token per four frames, `(B, ceil(F / 4), D)`, with their mask.

    The mels, M of them, are a multiple of four; F is at most `frames`.
    """

    def __init__(self, mels: int, frames: int, channels: Sequence[int], width: int) -> None:
        super().__init__()
        first, second = channels
        self.low = nn.ModuleList([MaskedConv(1, first, 2), MaskedConv(first, first, 1)])
        self.high = nn.ModuleList([MaskedConv(first, second, 2), MaskedConv(second, second, 1)])
        self.project = nn.Linear(second * (mels // 4), width)
        self.positions = nn.Parameter(torch.empty((frames + 3) // 4, width))
        nn.init.normal_(self.positions, std=0.3)

    def forward(self, audio: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """`mask` is `(B, F)`, 1 for a frame and 0 for padding; the tokens' mask is `(B, ceil(F / 4))`."""
        keep = mask.to(audio.dtype)[:, None, None, :]
        features = audio * keep
        for stage in (self.low, self.high):
            # Frame 2i becomes frame i: a padded event keeps as many as the same one without padding has.
            keep = keep[..., ::2]
            for conv in stage:
                features = conv(features, keep)
        tokens: Tensor = self.project(features.flatten(1, 2).transpose(1, 2))
        return tokens + self.positions[: tokens.shape[1]], keep[:, 0, 0, :]
