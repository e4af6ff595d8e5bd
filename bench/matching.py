"""What equal accuracy costs each family of networks, from a few sizes of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["at_our_accuracy", "standard_error"]

Row = dict[str, Any]


def standard_error(accuracy: float, images: int) -> float:
    """Of an accuracy (0..1) measured on so many images."""
    return math.sqrt(accuracy * (1 - accuracy) / images)


def at_our_accuracy(ours: Row, others: list[Row]) -> list[Row]:
    """Each family's parameters at the accuracy of `ours`, and how many times ours that is.

    Rows have `family`, `size`, `parameters` and `accuracy`. A size that is no better than a smaller
    one of its family counts as not there. Between the others the logarithm of parameters is taken
    as linear in accuracy; beyond them only a bound is known: `at_least` or `at_most`.
    """
    found = []
    for family in dict.fromkeys(row["family"] for row in others):
        sizes = _useful([row for row in others if row["family"] == family])
        accuracies, parameters = zip(*sizes, strict=True)
        wanted = ours["accuracy"]
        bound = "about"
        if wanted > accuracies[-1]:
            bound = "at_least"
        elif wanted < accuracies[0]:
            bound = "at_most"
        count = float(np.exp(np.interp(wanted, accuracies, np.log(parameters))))
        found.append(
            {
                "ours": ours["size"],
                "accuracy": wanted,
                "family": family,
                "bound": bound,
                "parameters": round(count),
                "times_ours": round(count / ours["parameters"], 2),
            }
        )
    return found


def _useful(rows: list[Row]) -> list[tuple[float, int]]:
    """Accuracies and parameters of the sizes that are better than all smaller ones, ascending."""
    kept: list[tuple[float, int]] = []
    for row in sorted(rows, key=lambda row: (row["parameters"], -row["accuracy"])):
        if not kept or row["accuracy"] > kept[-1][0]:
            kept.append((row["accuracy"], row["parameters"]))
    return kept
