"""What equal accuracy costs each family of networks, from a few sizes of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["at_our_accuracy", "standard_error"]

Row = dict[str, Any]
Sizes = list[tuple[float, int]]


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy (0..1) measured on so many images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def at_our_accuracy(ours: Row, others: list[Row]) -> list[Row]:
    """Each family's parameters at the accuracy of `ours`, and how many times ours that is.

    Rows have `family`, `size`, `parameters`, `accuracy` and `standard_error`. A size that is no
    better than a smaller one of its family counts as not there. Between the others the logarithm of
    parameters is taken as linear in accuracy; beyond them only a bound is known, of the sizes that
    were tried: `at_least` or `at_most`. `times_ours_between` is the same for accuracies that lie
    one standard error of a difference to either side.
    """
    wanted, error = ours["accuracy"], math.sqrt(2) * ours["standard_error"]
    found = []
    for family in dict.fromkeys(row["family"] for row in others):
        sizes = _useful([row for row in others if row["family"] == family])
        low, count, high = (_cost(sizes, wanted + step) for step in (-error, 0, error))
        found.append(
            {
                "ours": ours["size"],
                "accuracy": wanted,
                "family": family,
                "bound": _bound(sizes, wanted),
                "parameters": round(count),
                "times_ours": round(count / ours["parameters"], 2),
                "times_ours_between": [round(end / ours["parameters"], 2) for end in (low, high)],
            }
        )
    return found


def _useful(rows: list[Row]) -> Sizes:
    """Accuracies and parameters of the sizes that are better than all smaller ones, ascending."""
    kept: Sizes = []
    for row in sorted(rows, key=lambda row: (row["parameters"], -row["accuracy"])):
        if not kept or row["accuracy"] > kept[-1][0]:
            kept.append((row["accuracy"], row["parameters"]))
    return kept


def _cost(sizes: Sizes, accuracy: float) -> float:
    accuracies, parameters = zip(*sizes, strict=True)
    return float(np.exp(np.interp(accuracy, accuracies, np.log(parameters))))


def _bound(sizes: Sizes, accuracy: float) -> str:
    if accuracy > sizes[-1][0]:
        return "at_least"
    return "at_most" if accuracy < sizes[0][0] else "about"
