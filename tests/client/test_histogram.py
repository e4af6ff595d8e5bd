"""The histogram against exact percentiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emamba_client.histogram import Histogram


@given(
    st.lists(st.floats(1e-6, 100), min_size=1, max_size=200),
    st.sampled_from([1, 50, 90, 99, 99.9, 100]),
)
def test_percentiles_are_within_one_percent(seconds, percent):
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    exact = sorted(seconds)[max(1, math.ceil(len(seconds) * percent / 100)) - 1]
    came = histogram.percentile(percent)
    assert came is not None
    assert exact * 0.999999 <= came <= exact * 1.0100001
    assert histogram.mean_s == pytest.approx(math.fsum(seconds) / len(seconds))
    assert (histogram.count, histogram.max_s) == (len(seconds), max(seconds))


def test_nothing_has_no_percentile():
    assert Histogram().percentile(50) is None
    assert Histogram().mean_s is None


def test_long_runs_need_no_more_room():
    histogram = Histogram()
    for number in range(100_000):
        histogram.add(number / 1000)
    assert len(histogram._buckets) < 2100
