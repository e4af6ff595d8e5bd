"""Fashion-MNIST and CIFAR-10 in the forms that people download.

- Fashion-MNIST: `train-images-idx3-ubyte` and its kin, packed as `.gz` or not, under the official
  names or prefixed by `fashion_mnist_`.
- CIFAR-10: `cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, or the folder inside either; or
  `cifar10_jpeg.npz`, every image re-encoded as JPEG, which needs Pillow.

Splits are `train` and `test`, as published.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.data.mars import DataError

__all__ = ["DATASETS", "Dataset", "ImageSplit", "read_images"]

Bytes = npt.NDArray[np.uint8]
_MAX_UNPACKED = 200_000_000


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
    """A data set by its name: what it shows, and how a split is read from a folder."""

    name: str
    title: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    read: Callable[[Path, str], tuple[Bytes, Bytes, dict[str, str], str]]
    licence: str


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


def _read_fashion(folder: Path, split: str) -> tuple[Bytes, Bytes, dict[str, str], str]:
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
    raw = _read(path, sha256)
    if path.suffix == ".gz":
        raw = _gunzip(path, raw)
    header = 4 + 4 * axes
    if len(raw) < header or raw[:4] != bytes((0, 0, 8, axes)):
        raise DataError(path, f"must be an IDX file of unsigned bytes with {axes} axes")
    shape = tuple(np.frombuffer(raw, ">u4", axes, 4).tolist())
    if len(raw) - header != np.prod(shape, dtype=np.int64):
        raise DataError(path, f"must hold {shape} bytes after its header, not {len(raw) - header}")
    array: Bytes = np.frombuffer(raw, np.uint8, offset=header).copy()
    return array.reshape(shape)


def _gunzip(path: Path, raw: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            return file.read(_MAX_UNPACKED)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"is not a readable .gz: {error}") from error


_PYTHON = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
_BINARY = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")
_JPEG = "cifar10_jpeg.npz"


def _read_cifar10(folder: Path, split: str) -> tuple[Bytes, Bytes, dict[str, str], str]:
    numbers = range(1, 6) if split == "train" else None
    sha256: dict[str, str] = {}
    for forms, ending, parse in ((_PYTHON, "", _python_batch), (_BINARY, ".bin", _binary_batch)):
        names = ["test_batch"] if numbers is None else [f"data_batch_{n}" for n in numbers]
        batches = _members(folder, forms, [name + ending for name in names], sha256)
        if batches is not None:
            parts = [parse(folder / name, raw) for name, raw in batches.items()]
            images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
            return images, labels, sha256, "official CIFAR-10 files"
    if (folder / _JPEG).is_file():
        images, labels = _jpeg_images(folder / _JPEG, split, sha256)
        return images, labels, sha256, "CIFAR-10 re-encoded as JPEG, not the official pixels"
    raise DataError(folder, f"must hold one of {', '.join((*_PYTHON, *_BINARY, _JPEG))}")


def _members(
    folder: Path, forms: tuple[str, str], names: list[str], sha256: dict[str, str]
) -> dict[str, bytes] | None:
    """Each named file of a form: from this folder, the folder inside the archive, or the archive.

    None where the form is not here at all; some of its files without the others are a `DataError`.
    """
    inner, archive = forms
    for place in (folder, folder / inner):
        missing = [name for name in names if not (place / name).is_file()]
        if not missing:
            return {name: _read(place / name, sha256) for name in names}
        if len(missing) < len(names):
            raise DataError(place, f"must hold {', '.join(missing)} too; unpack the archive again")
    path = folder / archive
    if not path.is_file():
        return None
    raw = _read(path, sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
            found = {Path(member.name).name: member for member in tar if member.isfile()}
            files = {name: tar.extractfile(found[name]) for name in names}
            return {name: file.read(_MAX_UNPACKED) for name, file in files.items() if file}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"is not a readable .tar.gz: {error}") from error
    except KeyError as error:
        raise DataError(path, f"must hold {error}") from error


class _Arrays(pickle.Unpickler):
    """Reads pickled dictionaries of plain values and NumPy arrays, and calls nothing else."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"holds {module}.{name}, which a batch does not")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def _python_batch(path: Path, raw: bytes) -> tuple[Bytes, Bytes]:
    """A batch of the Python version: rows of 1024 red, 1024 green, 1024 blue values."""
    try:
        batch = _Arrays(io.BytesIO(raw), encoding="bytes").load()
        rows, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(path, f"is not a batch of CIFAR-10's Python version: {error}") from error
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3072:
        raise DataError(path, f"must hold rows of 3072 bytes, not {rows.dtype} {rows.shape}")
    if labels.shape != (len(rows),) or labels.dtype.kind not in "iu" or not _are_bytes(labels):
        raise DataError(path, "must hold one label 0..255 for each row")
    return _planes(rows), labels.astype(np.uint8)


def _are_bytes(labels: npt.NDArray[Any]) -> bool:
    return not len(labels) or 0 <= int(labels.min()) <= int(labels.max()) <= 255


def _binary_batch(path: Path, raw: bytes) -> tuple[Bytes, Bytes]:
    """A batch of the binary version: a label, then 1024 red, 1024 green, 1024 blue values."""
    if not raw or len(raw) % 3073:
        raise DataError(path, f"must be whole records of 3073 bytes, but has {len(raw)} bytes")
    records = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    return _planes(records[:, 1:]), records[:, 0]


def _planes(rows: Bytes) -> Bytes:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _jpeg_images(path: Path, split: str, sha256: dict[str, str]) -> tuple[Bytes, Bytes]:
    """Images that share one header: `header`, `<split>_scan`, `_offsets`, `_labels`."""
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - only this form needs it
    except ImportError as error:
        raise DataError(path, "needs Pillow; install emamba[train]") from error
    raw = _read(path, sha256)
    try:
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            header = arrays["header"].tobytes()
            scans, offsets = arrays[f"{split}_scan"].tobytes(), arrays[f"{split}_offsets"]
            labels = arrays[f"{split}_labels"].astype(np.uint8)
        images = np.empty((len(offsets) - 1, 32, 32, 3), np.uint8)
        for i in range(len(images)):
            file = io.BytesIO(header + scans[offsets[i] : offsets[i + 1]])
            images[i] = np.asarray(Image.open(file).convert("RGB"))
    except (
        zipfile.BadZipFile,
        zlib.error,
        UnidentifiedImageError,
        KeyError,
        ValueError,
        OSError,
    ) as error:
        raise DataError(path, f"is not a readable {path.name}: {error}") from error
    return images, labels


def _read(path: Path, sha256: dict[str, str]) -> bytes:
    """The file's bytes; its hash goes into `sha256`."""
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}") from error
    sha256[path.name] = hashlib.sha256(blob).hexdigest()
    return blob


DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="fashion-mnist",
            title="Fashion-MNIST",
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
            read=_read_fashion,
            licence="MIT, (c) 2017 Zalando SE",
        ),
        Dataset(
            name="cifar10",
            title="CIFAR-10",
            shape=(32, 32, 3),
            classes=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            read=_read_cifar10,
            licence="none stated; A. Krizhevsky, 2009; research use",
        ),
    )
}
