"""The image data sets by name, and their splits, `train` and `test` as published."""

from __future__ import annotations

from pathlib import Path

from emamba.data.cifar10 import CIFAR10
from emamba.data.dataset import ImageSplit
from emamba.data.fashion_mnist import FASHION_MNIST
from emamba.data.files import DataError

__all__ = ["DATASETS", "read_images"]

DATASETS = {dataset.name: dataset for dataset in (FASHION_MNIST, CIFAR10)}


def read_images(name: str, folder: Path, split: str) -> ImageSplit:
    """A split of one of `DATASETS`; raises `DataError` if it is missing, damaged or misshapen."""
    dataset = DATASETS[name]
    if split not in ("train", "test"):
        raise DataError(folder, f"{dataset.title} has splits train and test, not {split!r}")
    if not folder.is_dir():
        raise DataError(folder, "must be a folder with the data set's files")
    images, labels, sha256, origin = dataset.read(folder, split)
    if images.shape != (len(labels), *dataset.shape) or not len(labels):
        must = ", ".join(map(str, dataset.shape))
        raise DataError(folder, f"{split} must be [n, {must}] with n labels, not {images.shape}")
    if int(labels.max()) >= len(dataset.classes):
        raise DataError(folder, f"{split}'s labels must be below {len(dataset.classes)}")
    return ImageSplit(images, labels, dataset.classes, sha256, origin)
