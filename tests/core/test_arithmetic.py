"""Rounding, shifting and saturating, against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emamba.config import Fixed
from emamba.edges import dequantise, quantise
from emamba.fixed.arithmetic import Requantiser, align, saturate, shift_round

INT24 = st.integers(-(2**23), 2**23)


@given(INT24, st.integers(0, 30))
def test_shift_round_is_half_up(x: int, shift: int) -> None:
    exact = math.floor(Fraction(x, 2**shift) + Fraction(1, 2))
    assert int(shift_round(np.array([x], np.int64), shift)[0]) == exact


@given(INT24, st.integers(0, 7))
def test_negative_shift_multiplies_exactly(x: int, left: int) -> None:
    assert int(shift_round(np.array([x], np.int64), -left)[0]) == x * 2**left


def test_halves_round_up_on_both_sides_of_zero() -> None:
    halves = np.array([-3, -1, 1, 3], np.int32)
    np.testing.assert_array_equal(shift_round(halves, 1), [-1, 0, 1, 2])


@given(INT24, st.integers(2, 24))
def test_saturate_is_symmetric(x: int, width: int) -> None:
    top = 2 ** (width - 1) - 1
    got = int(saturate(np.array([x], np.int32), width)[0])
    assert got == max(-top, min(top, x))


def test_align_refuses_to_drop_bits() -> None:
    with pytest.raises(ValueError, match="align shifts left only, not by -1"):
        align(np.array([1]), -1)


def test_inputs_are_left_as_they_were() -> None:
    x = np.array([1000, -1000], np.int32)
    shift_round(x, 3)
    saturate(x, 8)
    np.testing.assert_array_equal(x, [1000, -1000])


def test_requantiser_counts_every_saturation() -> None:
    q = Requantiser({"u": Fixed(8, 0)}, counting=True)
    np.testing.assert_array_equal(q("u", np.array([1, 200, -200, 127]), 0), [1, 127, -127, 127])
    assert (q.saturated["u"], q.seen["u"]) == (2, 4)


@given(st.floats(-300, 300), st.integers(2, 17), st.integers(-2, 14))
def test_quantise_is_nearest_unless_saturated_and_idempotent(
    value: float, width: int, frac: int
) -> None:
    fmt = Fixed(width, frac)
    q = quantise(np.array([value]), fmt)
    assert abs(int(q[0])) <= fmt.max_int
    if abs(value) <= fmt.max_int * fmt.lsb:
        assert abs(dequantise(q, fmt)[0] - value) <= fmt.lsb / 2
    np.testing.assert_array_equal(quantise(dequantise(q, fmt), fmt), q)


@given(st.floats(-300, 300), st.floats(-300, 300))
def test_quantise_is_monotone(a: float, b: float) -> None:
    low, high = quantise(np.array(sorted([a, b])), Fixed(8, 3))
    assert low <= high


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_quantise_refuses_what_is_not_a_number(bad: float) -> None:
    with pytest.raises(ValueError, match="must be finite, but hold NaN or infinity"):
        quantise(np.array([0.0, bad]), Fixed(8, 3))
