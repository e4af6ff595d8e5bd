from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emamba.config import Fixed
from emamba.fixed.tables import SLOPE_FRAC, IntegerTable, derive_table
from random_models import table_lines

FORMATS = {"silu": (Fixed(8, 4), Fixed(16, 11)), "exp": (Fixed(12, 8), Fixed(9, 7))}


def make(kind: str) -> IntegerTable:
    return derive_table(kind, *table_lines(kind), *FORMATS[kind])


@pytest.mark.parametrize("kind", FORMATS)
def test_lookup_equals_evaluation_for_every_argument(kind: str) -> None:
    table = make(kind)
    top = table.x_format.max_int
    x = np.arange(-top, top + 1, dtype=np.int32)
    np.testing.assert_array_equal(table(x), table.evaluate(x))


@pytest.mark.parametrize("kind", FORMATS)
def test_evaluation_is_the_documented_rule(kind: str) -> None:
    """Row by comparison, one multiply, one add, one half-up shift: in Python integers."""
    table = make(kind)
    top, y = table.x_format.max_int, table.y_format
    shift = table.x_format.frac + SLOPE_FRAC - y.frac
    for x in range(-top, top + 1):
        row = sum(x >= int(b) for b in table.breakpoints)
        acc = int(table.slope[row]) * x + int(table.intercept[row])
        low, high = (0, 128) if kind == "exp" else (-y.max_int, y.max_int)
        want = max(low, min(high, (acc + (1 << (shift - 1))) >> shift))
        assert int(table.evaluate(np.array([x]))[0]) == want


@pytest.mark.parametrize("kind", FORMATS)
def test_integer_table_is_the_float_table_to_within_a_unit(kind: str) -> None:
    """Tolerance: half a unit of rounding, plus a slope error of 2**-13 over the input's range."""
    breakpoints, slope, intercept = table_lines(kind)
    table = make(kind)
    top, x_format, y_format = table.x_format.max_int, table.x_format, table.y_format
    x = np.arange(-top, top + 1)
    value = x * x_format.lsb
    row = np.searchsorted(breakpoints, value, side="right")
    exact = slope[row] * value + intercept[row]
    held = (table.y_low * y_format.lsb <= exact) & (exact <= table.y_high * y_format.lsb)
    error = np.abs(table.evaluate(x) * y_format.lsb - exact)[held]
    # A breakpoint off the input's grid moves by up to half a unit, where two lines differ little.
    assert error.max() <= y_format.lsb + 2.0**-13 * top * x_format.lsb + x_format.lsb / 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"breakpoints": np.zeros(3, np.int32)}, "n slopes, n intercepts and n - 1 breakpoints"),
        ({"intercept": np.zeros(3, np.int32)}, "n slopes, n intercepts and n - 1 breakpoints"),
        ({"breakpoints": np.arange(18, 0, -1, dtype=np.int32)}, "breakpoints must not fall"),
        ({"breakpoints": np.full(18, 128, np.int32)}, "every breakpoint must fit 8 signed bits"),
        ({"slope": np.full(19, 40000, np.int32)}, "every slope must fit 16 signed bits"),
    ],
)
def test_check_refuses(change: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(make("silu"), **change).check()
