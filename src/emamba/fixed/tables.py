"""Integer piecewise-linear tables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from emamba.config import Fixed
from emamba.fixed.arithmetic import Ints, shift_round

__all__ = ["SLOPE_FRAC", "SLOPE_WIDTH", "TABLES", "IntegerTable", "TableKind", "derive_table"]

TableKind = Literal["silu", "exp"]
# Each table's argument and result, by format name within a block.
TABLES: dict[TableKind, tuple[str, str]] = {"silu": ("z", "gate"), "exp": ("dt_A", "dA")}
SLOPE_WIDTH = 16
SLOPE_FRAC = 12


@dataclass(frozen=True)
class IntegerTable:
    """Rows of a piecewise-linear SiLU or exp of an integer, the outer rows included.

    Row `r` holds where `breakpoints[r-1] <= x < breakpoints[r]`; there are one fewer breakpoints
    than rows. The value is `slope[r] * x + intercept[r]`, a number with
    `x_format.frac + SLOPE_FRAC` fractional bits, rounded once to `y_format`, then limited: SiLU to
    the format's range, exp to 0..1, as its argument is never above 0 and a state must not grow.
    """

    kind: TableKind
    breakpoints: npt.NDArray[np.int32]  # (rows - 1,) in units of x_format
    slope: npt.NDArray[np.int32]  # (rows,) int16 Q4.12
    intercept: npt.NDArray[np.int32]  # (rows,) frac = x_format.frac + SLOPE_FRAC
    x_format: Fixed
    y_format: Fixed

    def check(self) -> None:
        """Raise `ValueError` unless the rows fit each other and their integer types."""
        rows = len(self.slope)
        if rows < 1 or len(self.intercept) != rows or len(self.breakpoints) != rows - 1:
            raise ValueError(
                f"needs n slopes, n intercepts and n - 1 breakpoints, not {rows}, "
                f"{len(self.intercept)} and {len(self.breakpoints)}"
            )
        if np.any(np.diff(self.breakpoints) < 0):
            raise ValueError("breakpoints must not fall")
        for what, values, width in (
            ("breakpoint", self.breakpoints, self.x_format.width),
            ("slope", self.slope, SLOPE_WIDTH),
            ("intercept", self.intercept, 32),
        ):
            top = (1 << (width - 1)) - 1
            if values.size and int(np.abs(values.astype(np.int64)).max()) > top:
                raise ValueError(f"every {what} must fit {width} signed bits")

    def evaluate(self, x: Ints) -> npt.NDArray[np.int32]:
        """The value at each `x`, int32 in `y_format`: compare, multiply, add, round, limit."""
        row = np.searchsorted(self.breakpoints, x, side="right")
        acc = self.slope[row].astype(np.int64) * x + self.intercept[row]
        frac = self.x_format.frac + SLOPE_FRAC
        out = np.clip(shift_round(acc, frac - self.y_format.frac), self.y_low, self.y_high)
        return out.astype(np.int32)

    @property
    def y_low(self) -> int:
        """The smallest value the table gives."""
        return 0 if self.kind == "exp" else -self.y_format.max_int

    @property
    def y_high(self) -> int:
        """The largest value the table gives."""
        return 1 << self.y_format.frac if self.kind == "exp" else self.y_format.max_int

    def __call__(self, x: Ints) -> Ints:
        """`evaluate`, looked up: every argument has been evaluated once beforehand."""
        out: Ints = self.dense.take(x + self.x_format.max_int)
        return out

    @cached_property
    def dense(self) -> npt.NDArray[np.int32]:
        """The value at every argument of `x_format`, from the smallest up."""
        top = self.x_format.max_int
        return self.evaluate(np.arange(-top, top + 1))


def derive_table(
    kind: TableKind,
    breakpoints: npt.NDArray[np.float64],
    slope: npt.NDArray[np.float64],
    intercept: npt.NDArray[np.float64],
    x_format: Fixed,
    y_format: Fixed,
) -> IntegerTable:
    """The integer table of a continuous float one, lines given with their outer rows.

    Each intercept absorbs its slope's rounding at the row's left breakpoint, so that pieces
    still meet there to within half a unit of the intercept.
    """
    top = x_format.max_int
    knots = np.clip(np.floor(breakpoints / x_format.lsb + 0.5), -top, top)
    slope_int = np.floor(slope * 2.0**SLOPE_FRAC + 0.5)
    anchor = np.concatenate([breakpoints[:1], breakpoints])
    value = slope * anchor + intercept
    offset = value - slope_int * 2.0**-SLOPE_FRAC * anchor
    intercept_int = np.floor(offset * 2.0 ** (x_format.frac + SLOPE_FRAC) + 0.5)
    return IntegerTable(
        kind,
        knots.astype(np.int32),
        slope_int.astype(np.int32),
        intercept_int.astype(np.int32),
        x_format,
        y_format,
    )
