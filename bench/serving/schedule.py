"""When requests are to be sent, and what their latencies amount to; nothing here is timed."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Arrivals", "arrivals_s", "percentile_s", "summary_ms"]

Arrivals = Literal["even", "poisson"]
Floats = npt.NDArray[np.float64]


def arrivals_s(rate_per_s: float, seconds: float, how: Arrivals, seed: int) -> Floats:
    """Intended send times in [0, seconds), ascending: evenly spaced, or a Poisson process."""
    if how == "even":
        return np.arange(int(rate_per_s * seconds)) / rate_per_s
    generator = np.random.default_rng(seed)
    expected = rate_per_s * seconds
    # Seven standard deviations more than expected always reach the end.
    gaps = generator.exponential(1 / rate_per_s, int(expected + 7 * expected**0.5 + 16))
    times = np.cumsum(gaps)
    return times[times < seconds]


def percentile_s(latencies_s: Floats, percent: float) -> float:
    """The smallest latency that `percent` of all samples do not exceed; raises for no samples."""
    if not len(latencies_s):
        raise ValueError("a percentile needs at least 1 sample")
    return float(np.percentile(latencies_s, percent, method="inverted_cdf"))


def summary_ms(latencies_s: Floats) -> dict[str, Any]:
    """Count, median, 90th, 99th and 99.9th percentile and maximum, in milliseconds."""
    if not len(latencies_s):
        return {"samples": 0}
    points = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
    shown = {name: round(1e3 * percentile_s(latencies_s, p), 3) for name, p in points.items()}
    return {"samples": len(latencies_s), **shown}
