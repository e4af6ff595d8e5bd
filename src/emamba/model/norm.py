"""Token normalisations: the range norm that ships, and the two it is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from emamba.model.numerics import Numerics

__all__ = ["NORMS", "RangeNorm"]

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


def _layer_norm(_name: str, _numerics: Numerics, width: int) -> nn.Module:
    return nn.LayerNorm(width)


def _rms_norm(_name: str, _numerics: Numerics, width: int) -> nn.Module:
    return nn.RMSNorm(width)


# The other two are float only, for comparison.
NORMS: dict[str, Callable[[str, Numerics, int], nn.Module]] = {
    "range": RangeNorm,
    "layer": _layer_norm,
    "rms": _rms_norm,
}
