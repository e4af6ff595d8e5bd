"""Readers of data sets as people download them. NumPy only, but for re-encoded images."""

from emamba.data.dataset import Dataset, ImageSplit
from emamba.data.files import DataError
from emamba.data.images import DATASETS, read_images
from emamba.data.mars import MarsSplit, read_mars

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "ImageSplit",
    "MarsSplit",
    "read_images",
    "read_mars",
]
