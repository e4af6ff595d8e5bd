"""Ours beside the stock histogram."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from emamba_service.histograms import Histograms

BOUNDS = (0.001, 0.002, 0.5, 1.0)
# Sums of these are exact in any order.
VALUES = st.integers(-(2**20), 2**20).map(lambda n: n / 1024) | st.sampled_from(BOUNDS[2:])


def text(registry: CollectorRegistry) -> list[str]:
    """What is exposed, the times of creation aside."""
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), VALUES), max_size=30))
@example([("a", 0.5), ("a", 1.0), ("a", 1.5), ("b", -1.0)])
def test_exposes_what_the_stock_histogram_does(observed):
    ours, stock = CollectorRegistry(), CollectorRegistry()
    mine = Histograms("emamba_t_seconds", "A time.", ["of"], BOUNDS, ours)
    theirs = Histogram("emamba_t_seconds", "A time.", ["of"], buckets=BOUNDS, registry=stock)
    for label, value in observed:
        mine.labels(label).observe(value)
        theirs.labels(label).observe(value)
    assert text(ours) == text(stock)
    assert text(ours) == text(stock), "reading changes nothing"


def test_keeps_a_bounded_number_of_observations():
    series = Histograms("emamba_t_seconds", "A time.", [], (1.0,), CollectorRegistry()).labels()
    for number in range(10_000):
        series.observe(number % 2 * 2.0)
        assert len(series._fresh) < 4097
    assert series.read() == ([5_000, 10_000], 10_000.0)


def test_two_of_one_name_are_refused():
    registry = CollectorRegistry()
    Histograms("emamba_t_seconds", "A time.", [], (1.0,), registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Histograms("emamba_t_seconds", "A time.", [], (1.0,), registry)
