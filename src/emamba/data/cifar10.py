"""CIFAR-10 in the forms that people download.

`cifar-10-python.tar.gz` or `cifar-10-binary.tar.gz`, or the folder inside either; or
`cifar10_jpeg.npz`, every image re-encoded as JPEG, which needs Pillow.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.data.dataset import Bytes, Dataset, Part
from emamba.data.files import MAX_UNPACKED, DataError, read_file

__all__ = ["CIFAR10"]

_PYTHON = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
_BINARY = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")
_JPEG = "cifar10_jpeg.npz"


def _read(folder: Path, split: str) -> Part:
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
            return {name: read_file(place / name, sha256) for name in names}
        if len(missing) < len(names):
            raise DataError(place, f"must hold {', '.join(missing)} too; unpack the archive again")
    path = folder / archive
    if not path.is_file():
        return None
    raw = read_file(path, sha256)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as tar:
            found = {Path(member.name).name: member for member in tar if member.isfile()}
            files = {name: tar.extractfile(found[name]) for name in names}
            return {name: file.read(MAX_UNPACKED) for name, file in files.items() if file}
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
    raw = read_file(path, sha256)
    try:
        arrays = _unpacked(raw, split)
        offsets, labels = arrays["offsets"], arrays["labels"]
        images = np.empty((len(labels), 32, 32, 3), np.uint8)
        header, scans = arrays["header"].tobytes(), arrays["scan"].tobytes()
        for i, (start, end) in enumerate(pairwise(offsets.tolist())):
            with Image.open(io.BytesIO(header + scans[start:end])) as picture:
                if picture.size != (32, 32):
                    raise ValueError(f"image {i} of {split} must be 32 x 32, not {picture.size}")
                images[i] = np.asarray(picture.convert("RGB"))
    except (
        zipfile.BadZipFile,
        zlib.error,
        UnidentifiedImageError,
        KeyError,
        ValueError,
        OSError,
    ) as error:
        raise DataError(path, f"is not a readable {path.name}: {error}") from error
    return images, labels.astype(np.uint8)


def _unpacked(raw: bytes, split: str) -> dict[str, npt.NDArray[Any]]:
    """A split's arrays, which fit each other; raises `ValueError` and as NumPy does."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        unpacked = sum(member.file_size for member in file.infolist())
    if unpacked > MAX_UNPACKED:
        raise ValueError(f"must unpack to {MAX_UNPACKED} bytes at most, not {unpacked}")
    with np.load(io.BytesIO(raw), allow_pickle=False) as file:
        arrays = {name: file[f"{split}_{name}"] for name in ("scan", "offsets", "labels")}
        arrays["header"] = file["header"]
    for name, array in arrays.items():
        kinds = "u" if name in {"header", "scan"} else "iu"
        if array.ndim != 1 or array.dtype.kind not in kinds:
            raise ValueError(f"{name} must be a row of integers, not {array.dtype} {array.shape}")
    offsets, labels = arrays["offsets"], arrays["labels"]
    if len(offsets) != len(labels) + 1 or not _are_bytes(labels):
        raise ValueError(f"{split} must have one label 0..255 for each image")
    return arrays


CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    depicts="32x32 colour pictures",
    limits="Trained and measured on the data as described above: where it says re-encoded as JPEG, "
    "accuracies are not comparable with published CIFAR-10 figures.",
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
    licence="none stated; A. Krizhevsky, 2009; research use",
    read=_read,
)
