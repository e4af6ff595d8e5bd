"""Fashion-MNIST in the forms that people download.

`train-images-idx3-ubyte` and its kin, packed as `.gz` or not, under the official names or prefixed
by `fashion_mnist_`.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from emamba.data.dataset import Bytes, Dataset, Part
from emamba.data.files import MAX_UNPACKED, DataError, read_file

__all__ = ["FASHION_MNIST"]


def _read(folder: Path, split: str) -> Part:
    part = "train" if split == "train" else "t10k"
    sha256: dict[str, str] = {}
    images = _idx(_find_idx(folder, f"{part}-images-idx3-ubyte"), 3, sha256)
    labels = _idx(_find_idx(folder, f"{part}-labels-idx1-ubyte"), 1, sha256)
    return images[..., None], labels, sha256, "official Fashion-MNIST files"


def _find_idx(folder: Path, name: str) -> Path:
    tried = [f"{before}{name}{after}" for before in ("", "fashion_mnist_") for after in (".gz", "")]
    for candidate in tried:
        if (folder / candidate).is_file():
            return folder / candidate
    raise DataError(folder, f"must hold one of {', '.join(tried)}, but has none")


def _idx(path: Path, axes: int, sha256: dict[str, str]) -> Bytes:
    """The array of an IDX file of unsigned bytes: magic 0, 0, 8, axes; big-endian sizes; bytes."""
    raw = read_file(path, sha256)
    if path.suffix == ".gz":
        raw = _gunzip(path, raw)
    header = 4 + 4 * axes
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, axes)):
        raise DataError(path, f"must be an IDX file of unsigned bytes with {axes} axes")
    shape = tuple(np.frombuffer(raw, ">u4", axes, 4).tolist())
    if len(raw) - header != math.prod(shape):
        raise DataError(path, f"must hold {shape} bytes after its header, not {len(raw) - header}")
    array: Bytes = np.frombuffer(raw, np.uint8, offset=header).copy()
    return array.reshape(shape)


def _gunzip(path: Path, raw: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            return file.read(MAX_UNPACKED)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"is not a readable .gz: {error}") from error


FASHION_MNIST = Dataset(
    name="fashion-mnist",
    title="Fashion-MNIST",
    depicts="28x28 grey pictures of clothes, bright on black,",
    limits="Clothes must be cut out, centred and bright on a black ground, as in the data: a photo "
    "of a shirt is not.",
    shape=(28, 28, 1),
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    licence="MIT, (c) 2017 Zalando SE",
    read=_read,
)
