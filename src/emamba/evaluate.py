"""Accuracy of pose predictions in the data set's own metric.

MAE and RMSE are taken per coordinate over all frames, then averaged over the 57 coordinates, in
centimetres (the MARS paper's metric).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.data import MarsSplit
from emamba.tasks.mars import JOINTS

__all__ = ["in_batches", "pose_errors", "pose_report"]

Floats = npt.NDArray[np.floating[Any]]
_AXES = ("x", "y", "z")


def pose_errors(error_m: Floats) -> dict[str, float]:
    """`mae_cm` and `rmse_cm` of errors (n, 19, 3) in metres, or any selection of their joints."""
    flat = error_m.reshape(len(error_m), -1).astype(np.float64)
    return {
        "mae_cm": float(100 * np.abs(flat).mean(0).mean()),
        "rmse_cm": float(100 * np.sqrt(np.square(flat).mean(0)).mean()),
    }


def pose_report(joints_m: Floats, split: MarsSplit) -> dict[str, Any]:
    """Errors of joints (n, 19, 3): overall, per axis, joint, subject and movement.

    Raises `ValueError` if a prediction is missing or not finite. Subjects and movements are left
    out where the data does not state them.
    """
    labels = split.labels.reshape(-1, 3, len(JOINTS)).transpose(0, 2, 1)
    if joints_m.shape != labels.shape or not np.isfinite(joints_m).all():
        raise ValueError(f"predictions must be finite and of shape {labels.shape}")
    error = joints_m - labels
    return {
        "frames": len(error),
        **pose_errors(error),
        "per_axis": {axis: pose_errors(error[:, :, i]) for i, axis in enumerate(_AXES)},
        "per_joint": {joint: pose_errors(error[:, i]) for i, joint in enumerate(JOINTS)},
        "per_subject": _by(split.subject, error),
        "per_movement": _by(split.movement, error),
    }


def _by(tags: npt.NDArray[np.uint8], error: Floats) -> dict[str, dict[str, float]]:
    known = [int(tag) for tag in np.unique(tags) if tag]
    return {str(tag): pose_errors(error[tags == tag]) for tag in known}


def in_batches(
    run: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], inputs: npt.NDArray[Any], batch: int = 256
) -> npt.NDArray[Any]:
    """`run` over `inputs` in slices of `batch`, results joined."""
    return np.concatenate([run(inputs[i : i + batch]) for i in range(0, len(inputs), batch)])
