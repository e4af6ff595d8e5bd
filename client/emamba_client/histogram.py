"""Times counted in buckets that are 1 % wide, so that long runs need no more room than short."""

from __future__ import annotations

import math
from collections import Counter

__all__ = ["Histogram"]

_WIDTH = math.log1p(0.01)
_LEAST_S = 1e-7


class Histogram:
    """Seconds; `percentile` is within 1 % of the exact one."""

    def __init__(self) -> None:
        self.count = 0
        self.max_s = 0.0
        self._sum_s = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        """Count one time, at least 0."""
        self.count += 1
        self.max_s = max(self.max_s, seconds)
        self._sum_s += seconds
        self._buckets[math.floor(math.log(max(seconds, _LEAST_S) / _LEAST_S) / _WIDTH)] += 1

    @property
    def mean_s(self) -> float | None:
        """The mean, or None where nothing was counted."""
        return self._sum_s / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The least time that `percent` of all do not exceed, in seconds; None where there is
        nothing."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return min(self.max_s, _LEAST_S * math.exp(_WIDTH * (bucket + 1)))
        return self.max_s
