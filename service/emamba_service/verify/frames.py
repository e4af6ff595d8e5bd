"""The frames that a verification runs: a model's golden frames, or a data set's."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.data.mars import read_unlabelled
from emamba.evaluate import Labelled, read_labelled
from emamba.export.golden import golden_frames
from emamba.package import Package
from emamba.tasks import PoseTask

__all__ = ["FrameSet", "data_set", "golden_set", "thinned"]


@dataclass(frozen=True)
class FrameSet:
    """Frames as an engine takes them, and where they come from.

    `index` is each frame's number in its source, `sha256` the hash of each file read, `labels` the
    split that the frames were cut from, where it has any, frame by frame.
    """

    batch: npt.NDArray[np.int8]  # (n, height, width, channels)
    index: npt.NDArray[np.int64]  # (n,)
    source: str
    origin: str
    sha256: dict[str, str]
    labels: Labelled | None = None

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def batch_sha256(self) -> str:
        """SHA-256 of the frames as they are run."""
        return hashlib.sha256(np.ascontiguousarray(self.batch).tobytes()).hexdigest()


def golden_set(config: ModelConfig) -> FrameSet:
    """The frames of the golden vectors: extremes, then seeded random ones; without labels."""
    batch = golden_frames(config)
    return FrameSet(batch, np.arange(len(batch)), "golden vectors", "made up", {})


def data_set(package: Package, place: Path, split: str) -> FrameSet:
    """A split of the folder `place`, or the unlabelled frames of the file `place`.

    Raises `DataError` if it cannot be read.
    """
    if place.is_file() and isinstance(package.task, PoseTask):
        maps, sha256 = read_unlabelled(place)
        batch = package.encode(maps)
        return FrameSet(batch, np.arange(len(batch)), place.name, "unlabelled frames", sha256)
    labels = read_labelled(package.task, place, split)
    batch = package.encode(labels.inputs)
    index = np.arange(len(batch))
    title = "MARS" if isinstance(package.task, PoseTask) else labels.origin
    return FrameSet(batch, index, f"{title} {split} split", labels.origin, labels.sha256, labels)


def thinned(frames: FrameSet, most: int) -> FrameSet:
    """At most `most` of the frames, evenly taken."""
    if most >= len(frames):
        return frames
    kept = np.linspace(0, len(frames) - 1, most).astype(np.int64)
    labels = None if frames.labels is None else frames.labels.take(kept)
    return dataclasses.replace(
        frames, batch=frames.batch[kept], index=frames.index[kept], labels=labels
    )
