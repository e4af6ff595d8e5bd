"""What equal accuracy costs a family."""

from __future__ import annotations

from typing import Any

import pytest
from bench.matching import at_our_accuracy, standard_error


def rows(*sizes: tuple[int, float]) -> list[dict[str, Any]]:
    return [
        {"family": "ViT", "size": str(count), "parameters": count, "accuracy": accuracy}
        for count, accuracy in sizes
    ]


def at(accuracy: float, *sizes: tuple[int, float]) -> tuple[str, int, float]:
    found = matched(accuracy, *sizes)
    assert (found["ours"], found["family"], found["accuracy"]) == ("small", "ViT", accuracy)
    return found["bound"], found["parameters"], found["times_ours"]


def matched(accuracy: float, *sizes: tuple[int, float], error: float = 0.0) -> dict[str, Any]:
    ours = {"size": "small", "parameters": 10_000, "accuracy": accuracy, "standard_error": error}
    (found,) = at_our_accuracy(ours, rows(*sizes))
    return found


def test_between_two_sizes_the_logarithm_is_linear() -> None:
    assert at(0.85, (20_000, 0.8), (80_000, 0.9)) == ("about", 40_000, 4.0)
    assert at(0.8, (20_000, 0.8), (80_000, 0.9)) == ("about", 20_000, 2.0)


def test_beyond_all_sizes_there_is_a_bound() -> None:
    assert at(0.95, (20_000, 0.8), (80_000, 0.9)) == ("at_least", 80_000, 8.0)
    assert at(0.7, (20_000, 0.8), (80_000, 0.9)) == ("at_most", 20_000, 2.0)


def test_a_standard_error_to_either_side_says_how_sure_that_is() -> None:
    """Of a difference of two accuracies, 0.05 here: half of the way between the sizes."""
    sizes = ((20_000, 0.8), (80_000, 0.9))
    found = matched(0.85, *sizes, error=0.05 / 2**0.5)
    assert found["times_ours_between"] == [2.0, 8.0]
    found = matched(0.87, *sizes, error=0.05 / 2**0.5)
    assert found["times_ours_between"] == [pytest.approx(2.64), 8.0]


@pytest.mark.parametrize("worse", [(40_000, 0.87), (20_000, 0.86), (40_000, 0.88)])
def test_a_size_no_better_than_a_smaller_one_counts_for_nothing(worse: tuple[int, float]) -> None:
    sizes = ((20_000, 0.88), worse, (60_000, 0.895))
    assert at(0.865, *sizes) == ("at_most", 20_000, 2.0)
    assert at(0.875, *sizes) == ("at_most", 20_000, 2.0)
    assert at(0.895, *sizes) == ("about", 60_000, 6.0)
    assert at(0.89, (20_000, 0.88), (40_000, 0.87)) == ("at_least", 20_000, 2.0)


def test_the_standard_error_of_an_accuracy() -> None:
    assert standard_error(0.9, 10_000) == pytest.approx(0.003)
    assert standard_error(1.0, 10_000) == 0
