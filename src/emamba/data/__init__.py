"""Readers of data sets as people download them. NumPy only."""

from emamba.data.images import DATASETS, Dataset, ImageSplit, read_images
from emamba.data.mars import DataError, MarsSplit, read_mars

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "ImageSplit",
    "MarsSplit",
    "read_images",
    "read_mars",
]
