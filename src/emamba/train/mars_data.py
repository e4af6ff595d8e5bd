"""MARS as training sees it: labelled and unlabelled rows, and held-out blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emamba.data.mars import MarsSplit, read_mars, read_unlabelled
from emamba.tasks import PoseTask

__all__ = ["TrainingData", "read_training_data"]

UNLABELLED = "mars_train_s1_radar_only.npz"
VALIDATE_BLOCKS = 5
HELD_OUT_BLOCK = 2
GUARD_FRAMES = 3


@dataclass(frozen=True)
class TrainingData:
    """Labelled rows first, then unlabelled ones; held-out blocks of validate apart."""

    points: Tensor  # (n, 64, 5) raw units
    labels: Tensor  # (labelled, 57) metres
    held_out: MarsSplit
    task: PoseTask
    sha256: dict[str, str]
    origin: str

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's folder is marked with: the same files give the same rows."""
        return {"data_sha256": self.sha256}


def read_training_data(folder: Path) -> TrainingData:
    """Train, most of validate, and unlabelled radar frames where the folder has them.

    Raises `DataError`. Each movement's part of validate is cut into 5 blocks in time; the middle
    one is held out, less the frames at its edges, which are near copies of their neighbours.
    """
    train, validate = read_mars(folder, "train"), read_mars(folder, "validate")
    block, guarded = _blocks(validate)
    kept, held = block != HELD_OUT_BLOCK, (block == HELD_OUT_BLOCK) & ~guarded
    features = [train.features, validate.features[kept]]
    sha256 = train.sha256 | validate.sha256
    extra = folder / UNLABELLED
    if extra.exists():
        maps, digest = read_unlabelled(extra)
        features.append(maps)
        sha256 |= digest
    labels = np.concatenate([train.labels, validate.labels[kept]])
    points = np.concatenate(features).reshape(-1, 64, 5)
    return TrainingData(
        torch.from_numpy(points),
        torch.from_numpy(labels),
        validate.take(held),
        _normalisation(points, labels),
        sha256,
        train.origin,
    )


def _blocks(split: MarsSplit) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Each frame's time block within its movement, and whether it lies at a block's edge.

    Where movements are not stated, every 200 frames count as one.
    """
    movement = split.subject.astype(np.int64) * 16 + split.movement
    if not movement.any():
        movement = np.arange(len(split)) // 200
    block = np.empty(len(split), np.int64)
    guarded = np.zeros(len(split), np.bool_)
    for one in np.unique(movement):
        for number, rows in enumerate(
            np.array_split(np.flatnonzero(movement == one), VALIDATE_BLOCKS)
        ):
            block[rows] = number
            guarded[rows[:GUARD_FRAMES]] = guarded[rows[-GUARD_FRAMES:]] = True
    return block, guarded


def _normalisation(points: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]) -> PoseTask:
    """Mean and deviation of real points and of labels, rounded to be readable in the package."""
    real = points[points[..., 4] > 0].astype(np.float64)
    real[:, 4] = np.log1p(real[:, 4])

    def rounded(values: npt.NDArray[Any]) -> tuple[float, ...]:
        return tuple(float(f"{value:.4g}") for value in values)

    return PoseTask(
        rounded(real.mean(0)),
        rounded(real.std(0)),
        rounded(labels.mean(0)),
        rounded(labels.std(0)),
    )
