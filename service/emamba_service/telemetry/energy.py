"""From power over time to energy, and to a mean with its standard error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["EnergyCounter", "Window", "mean_power"]


@dataclass(frozen=True)
class Window:
    """Mean power over a stretch of time, its standard error, and how many readings it is of."""

    mean_w: float
    standard_error_w: float
    count: int


class EnergyCounter:
    """Adds up energy by rail, from readings in the order of time.

    Trapezoids: a reading is the mean over some milliseconds out of an interval of hundreds, so the
    two ends of an interval say as much about it as each other. What lies before or after a reading
    that a rail misses, and an interval longer than `max_gap_s`, is unknown and adds nothing.
    """

    def __init__(self, max_gap_s: float) -> None:
        self.energy_j: dict[str, float] = {}
        self._max_gap_s = max_gap_s
        self._time_s = -math.inf
        self._power_w: Mapping[str, float] = {}

    def add(self, time_s: float, power_w: Mapping[str, float]) -> None:
        """Take the reading of `time_s`; rails that are not in `power_w` were not measured."""
        step_s = time_s - self._time_s
        for rail, end_w in power_w.items():
            total_j = self.energy_j.get(rail, 0.0)
            if rail in self._power_w and 0 < step_s <= self._max_gap_s:
                total_j += (self._power_w[rail] + end_w) / 2 * step_s
            self.energy_j[rail] = total_j
        self._time_s, self._power_w = time_s, power_w


def mean_power(readings_w: Sequence[float], quantisation_w: float) -> Window | None:
    """The mean of independent readings; None of fewer than two, which have no standard error.

    `quantisation_w` is the standard deviation of a reading's rounding. It does not shrink with the
    count: a steady power is rounded the same way every time.
    """
    count = len(readings_w)
    if count < 2:
        return None
    spread = statistics.variance(readings_w) / count
    return Window(statistics.fmean(readings_w), math.sqrt(spread + quantisation_w**2), count)
