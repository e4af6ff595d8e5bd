"""Accuracy of predictions in each data set's own metric.

Of poses, MAE and RMSE are taken per coordinate over all frames, then averaged over the 57
coordinates, in centimetres (the MARS paper's metric). Of images, the share that is classified
right.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.data import DATASETS, DataError, ImageSplit, MarsSplit, read_images, read_mars
from emamba.tasks import PoseTask, Task
from emamba.tasks.mars import JOINTS

__all__ = [
    "Labelled",
    "calibration_error",
    "class_report",
    "fit_temperature",
    "in_batches",
    "pose_errors",
    "pose_report",
    "read_labelled",
    "report_on",
]

Floats = npt.NDArray[np.floating[Any]]
Labelled = MarsSplit | ImageSplit
_AXES = ("x", "y", "z")
# A probability that is 0 would make the likelihood's logarithm infinite.
_LEAST = 1e-12


def read_labelled(task: Task, folder: Path, split: str) -> Labelled:
    """A split of the data set that `task` is about; raises `DataError`, also if it has none."""
    if isinstance(task, PoseTask):
        return read_mars(folder, split)
    for name, dataset in DATASETS.items():
        if (dataset.classes, dataset.shape) == (task.classes, task.shape):
            return read_images(name, folder, split)
    raise DataError(
        folder,
        f"must be the data of the model's classes, but {', '.join(task.classes)} are those of "
        f"neither {' nor '.join(DATASETS)}",
    )


def report_on(answers: Floats, labelled: Labelled) -> dict[str, Any]:
    """`pose_report` or `class_report`, as the labels have it."""
    if isinstance(labelled, MarsSplit):
        return pose_report(answers, labelled)
    return class_report(answers, labelled)


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


def class_report(probabilities: Floats, split: ImageSplit) -> dict[str, Any]:
    """How probabilities (n, classes) fare on a split of images.

    `accuracy` (0..1), `calibration_error`, `negative_log_likelihood` in nats, `per_class`
    accuracies of the classes that have images, and `confusion`, images by label, then answer, both
    in the order of `classes`. Raises `ValueError` if a prediction is missing or not finite.
    """
    shape = (len(split), len(split.classes))
    if probabilities.shape != shape or not np.isfinite(probabilities).all():
        raise ValueError(f"predictions must be finite and of shape {shape}")
    answers, labels = probabilities.argmax(1), split.labels.astype(np.int64)
    confusion = np.zeros((shape[1], shape[1]), np.int64)
    np.add.at(confusion, (labels, answers), 1)
    of_label = probabilities[np.arange(len(labels)), labels]
    with np.errstate(invalid="ignore"):
        per_class = np.diag(confusion) / confusion.sum(1)
    return {
        "frames": len(split),
        "accuracy": float((answers == labels).mean()),
        "calibration_error": calibration_error(probabilities, labels),
        "negative_log_likelihood": float(-np.log(np.maximum(of_label, _LEAST)).mean()),
        "per_class": {
            name: float(share)
            for name, share in zip(split.classes, per_class, strict=True)
            if np.isfinite(share)
        },
        "classes": list(split.classes),
        "confusion": confusion.tolist(),
    }


def calibration_error(
    probabilities: Floats, labels: npt.NDArray[np.integer[Any]], bins: int = 15
) -> float:
    """Expected calibration error (0..1): how far confidence lies from accuracy, bin by bin.

    Bins of equal width over the likeliest class's probability, weighted by their images
    (C. Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3).
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def fit_temperature(logits: Floats, labels: npt.NDArray[np.integer[Any]]) -> float:
    """The temperature, 0.05 to 20, that makes `labels` likeliest under `softmax(logits / T)`."""

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        scaled = scaled - scaled.max(1, keepdims=True)
        picked = scaled[np.arange(len(labels)), labels]
        return float((np.log(np.exp(scaled).sum(1)) - picked).mean())

    # The loss is convex in 1 / T, so it has one minimum: golden sections close in on it.
    low, high = np.log(0.05), np.log(20.0)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
