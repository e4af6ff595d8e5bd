"""Token normalisations: the range norm that ships, and the two it is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emamba.model.numerics import Numerics

__all__ = ["NORMS", "LayerNorm", "RMSNorm", "RangeNorm"]

# (x - mean) / range has a standard deviation near 0.3 where LayerNorm's is 1.
_GAMMA_INIT = 3.0


class RangeNorm(nn.Module):
    """`gamma * (x - mean) / (max - min) + beta` over one token's features.

    Equation 2 of the eMamba paper: no variance, no square root, one division per token.
    """

    def __init__(self, name: str, numerics: Numerics, width: int) -> None:
        super().__init__()
        self.stage_name = name
        self.numerics = numerics
        self.gamma = nn.Parameter(torch.full((width,), _GAMMA_INIT))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        n, name = self.numerics, self.stage_name
        spread = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)
        unit = n.divide(x - n.mean(x), spread)
        gamma = n.weight(f"{name}.gamma", self.gamma)
        beta = n.weight(f"{name}.beta", self.beta)
        return n.activation(name, unit * gamma + beta)


class LayerNorm(nn.Module):
    """Standard layer normalisation, float only, for the ablation table."""

    def __init__(self, name: str, numerics: Numerics, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


class RMSNorm(nn.Module):
    """Root-mean-square normalisation, float only, for the ablation table."""

    def __init__(self, name: str, numerics: Numerics, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out


NORMS = {"range": RangeNorm, "layer": LayerNorm, "rms": RMSNorm}
