"""Building blocks that bring sensors into one bird's-eye view: a grid `(B, C, rows, columns)` on the ground.

Only operators that TensorRT takes: its parser refuses a scatter that adds or takes the maximum, so points come sorted
into pillars, one to a cell, and a plain scatter puts them in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

_BEHIND = 0.1
"""What is nearer to a camera's plane than this, in metres, or behind it, is not seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A square of `size` x `size` cells around the origin, which reaches `reach` metres in each direction.

    Rows follow x, columns follow y.
    """

    size: int
    reach: float

    def points(self, heights: tuple[float, ...]) -> Tensor:
        """Centres of the cells at each height, `(4, Z * size * size)`: x, y, z and 1, height by height."""
        centres = (torch.arange(self.size) + 0.5) * (2 * self.reach / self.size) - self.reach
        z, x, y = torch.meshgrid(torch.tensor(heights), centres, centres, indexing="ij")
        return torch.stack([x, y, z, torch.ones_like(x)]).flatten(1)


class CameraLift(nn.Module):
    """Gathers, for each cell, what the cameras see there: features `(B, N, C, h, w)` to `(B, C * Z, rows, columns)`.

    The cells' centres, at Z heights, are projected into each camera by its matrix, features are sampled there, and
    the mean is taken over the cameras that see the place; where none does, there are zeros.
    """

    points: Tensor

    def __init__(self, grid: Grid, heights: tuple[float, ...], image: tuple[int, int]) -> None:
        """`image` is rows and columns of the pictures that the matrices are for."""
        super().__init__()
        self.size, self.heights, self.image = grid.size, len(heights), image
        self.register_buffer("points", grid.points(heights), persistent=False)

    def forward(self, features: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """`places` and `seen` as `project` tells them."""
        cells = (self.heights * self.size, self.size)
        grid = places.flatten(0, 1).reshape(-1, *cells, 2)
        sampled = functional.grid_sample(features.flatten(0, 1), grid, align_corners=False)
        sampled = sampled.reshape(-1, *features.shape[1:3], cells[0] * cells[1]) * seen[:, :, None]
        mean = sampled.sum(dim=1) / seen.sum(dim=1).clamp(min=1.0)[:, None]
        return mean.reshape(-1, features.shape[2] * self.heights, self.size, self.size)

    def project(self, projection: Tensor) -> tuple[Tensor, Tensor]:
        """Where all K points are in each picture, `(B, N, K, 2)`: column and row in -1..1; and 1 where seen, else 0.

        `projection` `(B, N, 3, 4)` takes `(x, y, z, 1)` to `(column * depth, row * depth, depth)` in pixels; the
        latter result is `(B, N, K)`. In training keep it out of autocast: a place in bfloat16 is pixels off.
        """
        across, down, depth = torch.matmul(projection, self.points).unbind(dim=2)
        rows, columns = self.image
        scale = 2.0 / depth.clamp(min=_BEHIND)
        places = torch.stack([across * scale / columns - 1, down * scale / rows - 1], dim=-1).clamp(-2.0, 2.0)
        seen = (depth > _BEHIND) & (places.abs() < 1).all(dim=-1)
        return places, seen.to(projection.dtype)


class PillarEncoder(nn.Module):
    """Points sorted into pillars to a grid: points `(B, P, N, F)` to `(B, C, size, size)`.

    A layer on each point, the maximum over the N points of a pillar (one of fewer repeats its points), a scatter to
    the pillar's cell. Pillars of mask 0 go to a cell beyond the grid, which is cut off: neither their number nor the
    order of pillars or points changes anything.
    """

    def __init__(self, grid: Grid, features: int, width: int) -> None:
        super().__init__()
        self.size, self.width = grid.size, width
        self.first = nn.Linear(features, width)
        self.second = nn.Linear(width, width)

    def forward(self, points: Tensor, cells: Tensor, mask: Tensor) -> Tensor:
        """`cells` `(B, P)` int64 is row * size + column, each at most once; `mask` `(B, P)` is 1 for a pillar."""
        each = self.second(functional.relu(self.first(points)))
        pillars = functional.relu(each.amax(dim=2)) * mask.to(points.dtype)[:, :, None]
        beyond = self.size * self.size
        where = torch.where(mask > 0, cells, beyond)[:, :, None].expand(-1, -1, self.width)
        canvas = pillars.new_zeros(pillars.shape[0], beyond + 1, self.width)
        placed = canvas.scatter(1, where, pillars)[:, :beyond]
        return placed.transpose(1, 2).reshape(-1, self.width, self.size, self.size)
