"""Random changes to radar point clouds that leave the pose as it is.

Maps are handled as sorted point lists (b, 64, 5), zero-padded, raw units; a point is real where
its intensity is above 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from emamba.tasks import PoseTask

__all__ = ["Augmentation", "normalise"]

_INTENSITY = 4


@dataclass(frozen=True)
class Augmentation:
    """Strengths: a share of points dropped up to `drop`, positions moved by `jitter_m`,
    intensity scaled by `exp(intensity_noise * N)`, Doppler moved by `doppler_m_s`."""

    drop: float = 0.0
    jitter_m: float = 0.0
    intensity_noise: float = 0.0
    doppler_m_s: float = 0.0

    def __call__(self, points: Tensor) -> Tensor:
        """A changed copy, sorted by x again and padded."""
        batch, count, _ = points.shape
        x = points.clone()
        real = x[..., _INTENSITY] > 0
        x[..., :3] += torch.randn(batch, count, 3) * self.jitter_m
        x[..., 3] += torch.randn(batch, count) * self.doppler_m_s
        x[..., _INTENSITY] *= (torch.randn(batch, count) * self.intensity_noise).exp()
        kept = real & (torch.rand(batch, count) >= torch.rand(batch, 1) * self.drop)
        kept = torch.where(kept.any(1, keepdim=True), kept, real)
        order = torch.where(kept, x[..., 0], torch.inf).argsort(1)
        x = x * kept[..., None]
        return x.gather(1, order[..., None].expand_as(x))


def normalise(points: Tensor, task: PoseTask) -> Tensor:
    """`task.encode` on torch tensors (..., 5): what the network takes."""
    x = points.clone()
    x[..., _INTENSITY] = x[..., _INTENSITY].log1p()
    return (x - x.new_tensor(task.input_offset)) / x.new_tensor(task.input_scale)
