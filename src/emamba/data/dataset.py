"""What an image data set is, and a split of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Bytes", "Dataset", "ImageSplit", "Part"]

Bytes = npt.NDArray[np.uint8]
# Images (n, height, width, channels), labels (n,), the hash of each file read, their origin.
Part = tuple[Bytes, Bytes, dict[str, str], str]


@dataclass(frozen=True)
class ImageSplit:
    """One split. `sha256` maps each file read to its hash; `origin` goes wherever a result on the
    images is stated."""

    images: Bytes  # (n, height, width, channels)
    labels: Bytes  # (n,)
    classes: tuple[str, ...]
    sha256: dict[str, str]
    origin: str

    def __len__(self) -> int:
        return len(self.images)

    @property
    def inputs(self) -> npt.NDArray[Any]:
        """What the task's `encode` takes."""
        return self.images

    def take(self, rows: npt.NDArray[Any]) -> ImageSplit:
        """Some images, by number or mask."""
        return dataclasses.replace(self, images=self.images[rows], labels=self.labels[rows])


@dataclass(frozen=True)
class Dataset:
    """A data set by its name: what it shows, where its models end, how a split is read.

    `read` takes a folder, and train or test.
    """

    name: str
    title: str
    depicts: str
    limits: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    licence: str
    read: Callable[[Path, str], Part]
