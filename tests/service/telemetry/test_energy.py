"""Energy from power over time, and means with their standard errors."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from emamba_service.telemetry.energy import (
    EnergyCounter,
    Window,
    mean_power,
)

MAX_GAP_S = 1.0
# Sums of floats in another order differ in the last bits.
CLOSE = {"rel_tol": 1e-9, "abs_tol": 1e-9}

Readings = list[tuple[float, dict[str, float]]]

steps_s = st.floats(0.05, 1.5)
powers_w = st.dictionaries(st.sampled_from(["a", "b"]), st.floats(0, 2000))


@st.composite
def readings(draw: st.DrawFn) -> Readings:
    """Rising times, some further apart than a gap; rails come and go."""
    time_s = 0.0
    result = []
    for step_s, power_w in draw(st.lists(st.tuples(steps_s, powers_w), max_size=20)):
        time_s += step_s
        result.append((time_s, power_w))
    return result


def _energy_j(taken: Readings) -> dict[str, float]:
    counter = EnergyCounter(MAX_GAP_S)
    for time_s, power_w in taken:
        counter.add(time_s, power_w)
    return counter.energy_j


def test_trapezoids() -> None:
    taken = [(0.0, {"a": 2.0}), (0.5, {"a": 4.0}), (0.75, {"a": 4.0}), (1.75, {"a": 0.0})]
    assert _energy_j(taken) == {"a": 1.5 + 1.0 + 2.0}


def test_gaps_add_nothing() -> None:
    missing = [(0.0, {"a": 2.0, "b": 1.0}), (0.5, {"b": 1.0}), (1.0, {"a": 2.0, "b": 1.0})]
    assert _energy_j(missing) == {"a": 0.0, "b": 1.0}
    late = [(0.0, {"a": 2.0}), (1.5, {"a": 2.0}), (2.5, {"a": 2.0})]
    assert _energy_j(late) == {"a": 2.0}
    clock_set_back = [(5.0, {"a": 2.0}), (4.0, {"a": 2.0}), (4.5, {"a": 2.0})]
    assert _energy_j(clock_set_back) == {"a": 1.0}


@given(readings(), st.integers(0, 20))
def test_split_windows_add_up(taken: Readings, cut: int) -> None:
    whole, before, after = _energy_j(taken), _energy_j(taken[: cut + 1]), _energy_j(taken[cut:])
    for rail, energy_j in whole.items():
        parts_j = before.get(rail, 0.0) + after.get(rail, 0.0)
        assert math.isclose(energy_j, parts_j, **CLOSE)


@given(readings(), readings(), st.floats(MAX_GAP_S + 0.01, 1e6))
def test_a_gap_adds_nothing(before: Readings, after: Readings, gap_s: float) -> None:
    start_s = (before[-1][0] if before else 0.0) + gap_s
    moved = [(start_s + time_s, power_w) for time_s, power_w in after]
    joined, first, second = _energy_j(before + moved), _energy_j(before), _energy_j(moved)
    for rail, energy_j in joined.items():
        assert math.isclose(energy_j, first.get(rail, 0.0) + second.get(rail, 0.0), **CLOSE)


@given(readings())
def test_energy_never_falls_and_never_beats_the_greatest_power(taken: Readings) -> None:
    for rail, energy_j in _energy_j(taken).items():
        most_w = max(power_w.get(rail, 0.0) for _, power_w in taken)
        assert 0 <= energy_j <= most_w * (taken[-1][0] - taken[0][0]) * (1 + 1e-9)


def test_mean_power() -> None:
    assert mean_power([1.0], 0.0) is None
    assert mean_power([1.0, 2.0, 3.0, 2.0], 0.0) == Window(2.0, math.sqrt(2 / 3 / 4), 4)
    # A steady reading still has its rounding.
    assert mean_power([1.0, 1.0], 0.25) == Window(1.0, 0.25, 2)
