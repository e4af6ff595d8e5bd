"""A large point-cloud network for training only: smooths targets, labels the unlabelled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["PointSetTeacher"]


class PointSetTeacher(nn.Module):
    """Deep sets with one round of global context; takes normalised points and which are real.

    After M. Zaheer et al., "Deep Sets", 2017. About 0.2 M parameters at width 96.
    """

    def __init__(self, n_outputs: int, width: int = 96, dropout: float = 0.1) -> None:
        super().__init__()
        self.point = nn.Sequential(
            nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.context = nn.Linear(2 * width, width)
        self.own = nn.Linear(width, width)
        self.widen = nn.Linear(width, 2 * width)
        self.read_out = nn.Sequential(
            nn.LayerNorm(4 * width + 1),
            nn.Dropout(dropout),
            nn.Linear(4 * width + 1, 256),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, n_outputs),
        )

    def forward(self, points: Tensor, real: Tensor) -> Tensor:
        """(b, 64, 5) normalised, (b, 64) bool -> (b, n_outputs); padding is not computed at all."""
        frame = real.nonzero()[:, 0]
        count = real.sum(1, keepdim=True).clamp_min(1).to(points.dtype)
        h = self.point(points[real])
        context = self.context(_pool(h, frame, count))
        h = functional.relu(self.widen(functional.relu(self.own(h) + context[frame])))
        out: Tensor = self.read_out(torch.cat([_pool(h, frame, count), count / 32], 1))
        return out


def _pool(h: Tensor, frame: Tensor, count: Tensor) -> Tensor:
    """Mean and maximum of each frame's point features: (points, w) -> (b, 2 w)."""
    zeros = h.new_zeros(len(count), h.shape[1])
    mean = zeros.index_add(0, frame, h) / count
    largest = zeros.scatter_reduce(0, frame[:, None].expand_as(h), h, "amax", include_self=True)
    return torch.cat([mean, largest], 1)
