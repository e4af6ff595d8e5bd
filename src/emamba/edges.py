"""The two places where floats and integers meet: before the input and after the output."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.config import Fixed

__all__ = ["dequantise", "quantise"]


def quantise(x: npt.NDArray[np.floating[Any]], fmt: Fixed) -> npt.NDArray[np.int32]:
    """The nearest integers of `fmt`, halves up, saturated; raises `ValueError` on NaN or inf."""
    if not np.isfinite(x).all():
        raise ValueError("values to quantise must be finite, but hold NaN or infinity")
    scaled = np.floor(x.astype(np.float64) / fmt.lsb + 0.5)
    return np.clip(scaled, -fmt.max_int, fmt.max_int).astype(np.int32)


def dequantise(q: npt.NDArray[np.integer[Any]], fmt: Fixed) -> npt.NDArray[np.float64]:
    """The values that integers of `fmt` stand for."""
    values: npt.NDArray[np.float64] = q * np.float64(fmt.lsb)
    return values
