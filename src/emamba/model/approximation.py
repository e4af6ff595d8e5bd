"""Piecewise-linear SiLU and exp with learnable breakpoints.

A `PiecewiseLinear` is continuous: it is fixed by its knots, the breakpoints `x` and the values
`y` there. Below the first knot it is 0; above the last it is `x` (SiLU) or the last value (exp).
Segment counts and ranges are the paper's (SiLU: 17 on [-7, 7]; exp: 11 on [-4, 1]); breakpoints
and coefficients are unpublished, so ours are fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from emamba.model.fitting import fit_knots

__all__ = ["EXP", "SILU", "ApproximationSpec", "Exact", "PiecewiseLinear"]


@dataclass(frozen=True)
class ApproximationSpec:
    """Which function, on which range, in how many segments."""

    name: Literal["silu", "exp"]
    function: Callable[[Tensor], Tensor]
    segments: int
    low: float
    high: float


SILU = ApproximationSpec("silu", functional.silu, 17, -7.0, 7.0)
EXP = ApproximationSpec("exp", torch.exp, 11, -4.0, 1.0)


class Exact(nn.Module):
    """The function itself; the reference that a table approximates."""

    def __init__(self, spec: ApproximationSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        return self.spec.function(x)


class PiecewiseLinear(nn.Module):
    """A continuous table of `spec.segments` lines between trainable knots.

    `knots` and `values` hold `segments + 1` floats each. Before fitting, knots are evenly spaced
    and values are the function's own.
    """

    def __init__(self, spec: ApproximationSpec) -> None:
        super().__init__()
        self.spec = spec
        knots = torch.linspace(spec.low, spec.high, spec.segments + 1)
        self.knots = nn.Parameter(knots)
        self.values = nn.Parameter(spec.function(knots))

    def lines(self) -> tuple[Tensor, Tensor, Tensor]:
        """Breakpoints (segments + 1), slopes and intercepts (segments + 2), outer rows included."""
        x, y = self.knots, self.values
        slope = (y[1:] - y[:-1]) / (x[1:] - x[:-1])
        intercept = y[:-1] - slope * x[:-1]
        zero, one = x.new_zeros(1), x.new_ones(1)
        above = (one, zero) if self.spec.name == "silu" else (zero, y[-1:])
        return (
            x,
            torch.cat([zero, slope, above[0]]),
            torch.cat([zero, intercept, above[1]]),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The table's value at `x`, any shape."""
        breakpoints, slope, intercept = self.lines()
        row = torch.bucketize(x.detach().contiguous(), breakpoints.detach(), right=True)
        return slope[row] * x + intercept[row]

    @torch.no_grad()
    def fit(self, samples: npt.NDArray[np.float32]) -> None:
        """Place knots and values by weighted least squares on the arguments the model produces."""
        knots, values = fit_knots(self.spec, samples.astype(np.float64))
        self.knots.copy_(torch.from_numpy(knots))
        self.values.copy_(torch.from_numpy(values))
