"""ResNet-18, -50 and -101 as image encoders (He et al. 2015, arXiv:1512.03385), with torchvision's parameter names.

The last stage's feature map is what fusion takes, so there is no pooling and no classifier.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn
from torch.nn import functional

DEPTHS: Final = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Layers -> blocks a stage; from 50 layers on a block is a bottleneck."""

_WIDTHS: Final = (64, 128, 256, 512)
_EXPANSION: Final = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a skip: `(B, C, H, W)` to `(B, C', H / stride, W / stride)`."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _skip(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Conv-BN-ReLU-Conv-BN, plus the skip, then ReLU."""
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a skip; the stride is in the 3x3 one, as torchvision has it."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * _EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * _EXPANSION)
        self.downsample = _skip(channels, width * _EXPANSION, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Conv-BN-ReLU twice, Conv-BN, plus the skip, then ReLU."""
        inner = functional.relu(self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))
        return functional.relu(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet(nn.Module):
    """Image `(B, 3, H, W)` to the last stage's features `(B, channels, H / 32, W / 32)`."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        if layers not in DEPTHS:
            raise ValueError(f"no ResNet of {layers} layers: there are {sorted(DEPTHS)}")
        block = BasicBlock if layers < 50 else Bottleneck
        expansion = 1 if layers < 50 else _EXPANSION
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, (width, blocks) in enumerate(zip(_WIDTHS, DEPTHS[layers], strict=True), start=1):
            parts = []
            for index in range(blocks):
                parts.append(block(channels, width, 2 if stage > 1 and index == 0 else 1))
                channels = width * expansion
            self.add_module(f"layer{stage}", nn.Sequential(*parts))
        self.channels = channels

    def forward(self, image: Tensor) -> Tensor:
        """Stem, pooling, four stages."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(image))), 3, 2, 1)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x


def _skip(channels: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and channels == out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
