"""Small made-up data sets in the official forms, for tests."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def pictures(count: int, shape: tuple[int, int, int], seed: int) -> tuple[Bytes, Bytes]:
    """Pictures whose brightness tells their class, 0..9, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    base = 20 * labels[:, None, None, None] + rng.integers(0, 40, (count, *shape))
    return base.astype(np.uint8), labels


def idx(array: Bytes) -> bytes:
    """An IDX file of unsigned bytes."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_fashion(folder: Path, train: int = 300, test: int = 60) -> None:
    """The four files, packed as downloaded."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = pictures(count, (28, 28, 1), seed)
        for name, array in (("images-idx3", images[..., 0]), ("labels-idx1", labels)):
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
