"""Pictures as training sees them: rows to learn from, rows held out, random changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from emamba.data import DataError, read_images

__all__ = ["ImageAugmentation", "ImageData", "read_image_data"]


@dataclass(frozen=True)
class ImageData:
    """Shuffled training rows, and held-out rows of the train split that nothing learns from."""

    images: Tensor  # uint8 (n, height, width, channels)
    labels: Tensor  # int64 (n,)
    held_images: Tensor
    held_labels: Tensor
    mean: tuple[float, ...]  # of v / 255, by channel
    deviation: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: dict[str, str]
    origin: str

    @property
    def identity(self) -> dict[str, Any]:
        """What a run's folder is marked with."""
        return {"data_sha256": self.sha256}

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 -> float32 of the same shape, each channel of mean 0 and deviation 1."""
        offset, scale = images.new_tensor(self.mean, dtype=torch.float32), self.deviation
        return (images.float() / 255 - offset) / offset.new_tensor(scale)


def read_image_data(name: str, folder: Path, held_out: int) -> ImageData:
    """The train split of one of `DATASETS`, `held_out` random rows of it apart; `DataError`.

    The shuffle has a seed of its own: every run holds out the same rows.
    """
    split = read_images(name, folder, "train")
    if len(split) <= held_out:
        raise DataError(
            folder, f"train must have more than the {held_out} images held out, not {len(split)}"
        )
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    images, labels = torch.from_numpy(split.images)[order], torch.from_numpy(split.labels)[order]
    values = images[held_out:].float() / 255
    mean, deviation = values.mean((0, 1, 2)), values.std((0, 1, 2))
    return ImageData(
        images[held_out:],
        labels[held_out:].long(),
        images[:held_out],
        labels[:held_out].long(),
        tuple(float(f"{value:.4g}") for value in mean.tolist()),
        tuple(float(f"{value:.4g}") for value in deviation.tolist()),
        split.classes,
        split.sha256,
        split.origin,
    )


@dataclass(frozen=True)
class ImageAugmentation:
    """Pictures moved by up to `shift` pixels, and mirrored half of the time where `mirror` is
    set."""

    shift: int = 4
    mirror: bool = True

    @property
    def count(self) -> int:
        """How many ways there are to change a picture."""
        return (2 * self.shift + 1) ** 2 * (1 + self.mirror)

    def draw(self, count: int) -> Tensor:
        """So many random ways, int64."""
        return torch.randint(0, self.count, (count,))

    def change(self, images: Tensor, ways: Tensor) -> Tensor:
        """A copy of uint8 (b, height, width, channels), each picture changed in one of `count`
        ways, int64 (b,); what moves in is 0."""
        batch, height, width, channels = images.shape
        s = self.shift
        moves = ways // (1 + self.mirror)
        rows = torch.arange(height) + (moves // (2 * s + 1))[:, None]
        columns = torch.arange(width) + (moves % (2 * s + 1))[:, None]
        if self.mirror:
            columns = torch.where((ways % 2 == 1)[:, None], columns.flip(1), columns)
        padded = functional.pad(images, (0, 0, s, s, s, s))
        at = (rows[:, :, None] * (width + 2 * s) + columns[:, None]).reshape(batch, -1, 1)
        moved = padded.flatten(1, 2).gather(1, at.to(images.device).expand(-1, -1, channels))
        return moved.reshape(images.shape)
