"""Rounding, shifting and saturating: the only three things that change a number's format.

Rounding is stated once, here: half up, `floor(x + 1/2)`, which is what a shift with an added
half gives in NumPy, C++ and RTL alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.config import Fixed

__all__ = ["Ints", "Requantiser", "align", "saturate", "shift_round"]

Ints = npt.NDArray[np.signedinteger[Any]]


def shift_round(x: Ints, shift: int) -> Ints:
    """`x * 2**-shift`, rounded half up; a negative shift multiplies and is exact.

    The caller owes the headroom: `x + 2**(shift-1)`, or `x * 2**-shift`, must fit `x`'s dtype.
    """
    if shift <= 0:
        return align(x, -shift)
    out: Ints = x + (1 << (shift - 1))
    out >>= shift
    return out


def align(x: Ints, left: int) -> Ints:
    """`x * 2**left`, exactly: brings a narrow operand to an accumulator's fraction."""
    if left < 0:
        raise ValueError(f"align shifts left only, not by {left}")
    out: Ints = x << left if left else x
    return out


def saturate(x: Ints, width: int) -> Ints:
    """`x` clipped to the symmetric range of `width` signed bits."""
    top = (1 << (width - 1)) - 1
    out: Ints = np.clip(x, -top, top)
    return out


class Requantiser:
    """Ends every stage: one rounding shift and one saturation to a named format.

    With `counting`, `saturated[name]` and `seen[name]` count clipped and all values, so that a
    saturation is never silent.
    """

    def __init__(self, formats: Mapping[str, Fixed], counting: bool = False) -> None:
        self.formats = formats
        self.counting = counting
        self.saturated: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()

    def __call__(self, name: str, acc: Ints, acc_frac: int) -> Ints:
        """Accumulators with `acc_frac` fractional bits, brought to the format `name`."""
        fmt = self.formats[name]
        wide = shift_round(acc, acc_frac - fmt.frac)
        out = saturate(wide, fmt.width)
        if self.counting:
            self.saturated[name] += int(np.count_nonzero(out != wide))
            self.seen[name] += out.size
        return out
