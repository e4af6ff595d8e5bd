"""Fit a piecewise-linear table to the arguments a trained network really produces."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from emamba.model.approximation import ApproximationSpec

__all__ = ["fit_knots"]

Floats = npt.NDArray[np.float64]

_GRID = 2000
_ROUNDS = 60
# Keeps arguments that were not seen from going unfitted.
_FLOOR_WEIGHT = 0.02


def fit_knots(spec: ApproximationSpec, samples: Floats) -> tuple[Floats, Floats]:
    """Knots (segments + 1) and values there, least squares weighted by how often `samples` occur.

    The outer knots keep the range's ends; each inner knot moves, one at a time, to the best of
    nearby places, the values being solved for by linear least squares at every try.
    """
    grid = np.linspace(spec.low, spec.high, _GRID)
    counts, _ = np.histogram(samples, bins=_GRID, range=(spec.low, spec.high))
    weight = counts / max(counts.sum(), 1) + _FLOOR_WEIGHT / _GRID
    target = spec.function(torch.from_numpy(grid)).numpy()
    knots = _quantile_knots(spec, grid, weight)
    error, values = _solve(knots, grid, weight, target)
    for round_ in range(_ROUNDS):
        step = 0.5 * 0.93**round_
        for i in range(1, spec.segments):
            for direction in (-1, 1):
                room = knots[i + direction] - knots[i]
                moved = knots.copy()
                moved[i] += step * 0.5 * room
                new_error, new_values = _solve(moved, grid, weight, target)
                if new_error < error:
                    knots, error, values = moved, new_error, new_values
    return knots, np.maximum(values, 0.0) if spec.name == "exp" else values


def _quantile_knots(spec: ApproximationSpec, grid: Floats, weight: Floats) -> Floats:
    """A start: half evenly spaced, half where the arguments are."""
    share = np.linspace(0, 1, spec.segments + 1)
    seen = np.interp(share, np.cumsum(weight) / weight.sum(), grid)
    knots: Floats = 0.5 * seen + 0.5 * (spec.low + share * (spec.high - spec.low))
    knots[0], knots[-1] = spec.low, spec.high
    return knots


def _solve(knots: Floats, grid: Floats, weight: Floats, target: Floats) -> tuple[float, Floats]:
    """Weighted squared error and the best values at `knots`."""
    cell = np.clip(np.searchsorted(knots, grid, side="right") - 1, 0, len(knots) - 2)
    share = (grid - knots[cell]) / (knots[cell + 1] - knots[cell])
    root = np.sqrt(weight)
    basis = np.zeros((len(grid), len(knots)))
    rows = np.arange(len(grid))
    basis[rows, cell] = (1 - share) * root
    basis[rows, cell + 1] = share * root
    gram = basis.T @ basis + 1e-12 * np.eye(len(knots))
    values = np.linalg.solve(gram, basis.T @ (target * root))
    return float(np.square(basis @ values - target * root).sum()), values
