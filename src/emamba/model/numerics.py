"""The seam between the network and its arithmetic.

The network calls these hooks wherever the integer pipeline rounds. `FloatNumerics` lets every
value pass; the quantiser's numerics observe or round it. So there is one network, not two.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from emamba.model.approximation import Exact
from emamba.model.fused import Fusion

__all__ = ["FloatNumerics", "Numerics"]


class Numerics(Protocol):
    """What a network asks about each number it makes; `name` is the package's format key."""

    def activation(self, name: str, value: Tensor) -> Tensor:
        """An intermediate value, rounded to the format `name`."""
        ...

    def weight(self, name: str, value: Tensor) -> Tensor:
        """A parameter, rounded to the format `name`."""
        ...

    def mean(self, x: Tensor) -> Tensor:
        """The mean of `x` over the last axis, kept."""
        ...

    def divide(self, centred: Tensor, spread: Tensor) -> Tensor:
        """`centred / spread`, and 0 where `spread` is 0."""
        ...

    def table(self, name: str, function: nn.Module, x: Tensor) -> Tensor:
        """`function(x)`, an approximation table, rounded to the format `name`."""
        ...

    def fusion(self, block: str, tables: nn.ModuleDict) -> Fusion | None:
        """How `block`, a prefix of names, may be computed at once; None: only step by step."""
        ...


class FloatNumerics:
    """Plain float arithmetic: nothing is rounded."""

    def activation(self, name: str, value: Tensor) -> Tensor:
        return value

    def weight(self, name: str, value: Tensor) -> Tensor:
        return value

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(-1, keepdim=True)

    def divide(self, centred: Tensor, spread: Tensor) -> Tensor:
        return centred / spread.clamp_min(1e-12)

    def table(self, name: str, function: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = function(x)
        return out

    def fusion(self, block: str, tables: nn.ModuleDict) -> Fusion | None:
        exact = all(isinstance(table, Exact) for table in tables.values())
        return Fusion() if exact else None
