"""Every form of Fashion-MNIST and CIFAR-10 that people download, and the ways it can be wrong."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emamba.data import DATASETS, DataError, ImageSplit, read_images
from made_up_images import idx, pictures, write_fashion

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CIFAR = (32, 32, 3)


def rows(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), -1)


def batch(number: int, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    return pictures(count, CIFAR, number)


def python_batch(number: int) -> bytes:
    """As the official files: protocol 2, byte strings for keys, labels in a list."""
    images, labels = batch(number)
    return pickle.dumps({b"data": rows(images), b"labels": labels.tolist()}, 2)


def binary_batch(number: int) -> bytes:
    images, labels = batch(number)
    return np.concatenate([labels[:, None], rows(images)], 1).tobytes()


def names(ending: str) -> list[str]:
    return [f"data_batch_{n}{ending}" for n in range(1, 6)] + [f"test_batch{ending}"]


def as_folder(folder: Path, inner: str, files: dict[str, bytes]) -> None:
    place = folder / inner
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)


def as_archive(folder: Path, inner: str, files: dict[str, bytes]) -> None:
    kind = {"cifar-10-batches-py": "python", "cifar-10-batches-bin": "binary"}[inner]
    with tarfile.open(folder / f"cifar-10-{kind}.tar.gz", "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{inner}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def want(split: str) -> tuple[np.ndarray, np.ndarray]:
    numbers = range(1, 6) if split == "train" else [6]
    parts = [batch(n) for n in numbers]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


@pytest.mark.parametrize("write", [as_folder, as_archive])
@pytest.mark.parametrize(
    ("inner", "ending", "make"),
    [("cifar-10-batches-py", "", python_batch), ("cifar-10-batches-bin", ".bin", binary_batch)],
)
def test_official_cifar10(
    tmp_path: Path,
    write: Callable[[Path, str, dict[str, bytes]], None],
    inner: str,
    ending: str,
    make: Callable[[int], bytes],
) -> None:
    write(tmp_path, inner, {name: make(n + 1) for n, name in enumerate(names(ending))})
    for split in ("train", "test"):
        got = read_images("cifar10", tmp_path, split)
        images, labels = want(split)
        np.testing.assert_array_equal(got.images, images)
        np.testing.assert_array_equal(got.labels, labels)
        assert got.origin == "official CIFAR-10 files"
        assert got.classes[3] == "cat"
    inside = tmp_path / inner
    if inside.exists():
        assert len(read_images("cifar10", inside, "test")) == 4


def test_a_folder_that_lacks_batches_is_refused_by_their_names(tmp_path: Path) -> None:
    """Also where another form lies beside it."""
    files = {name: python_batch(1) for name in names("")}
    as_archive(tmp_path, "cifar-10-batches-py", files)
    as_folder(tmp_path, "cifar-10-batches-py", files)
    (tmp_path / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"batches-py: must hold data_batch_4 too"):
        read_images("cifar10", tmp_path, "train")
    assert len(read_images("cifar10", tmp_path, "test")) == 4


def jpeg_arrays(
    images: np.ndarray, labels: np.ndarray
) -> tuple[dict[str, np.ndarray], list[bytes]]:
    """The arrays of `cifar10_jpeg.npz`, and each image as a file of its own.

    All share one header, as encoders write it for equal sizes and qualities.
    """
    files = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=75)
        files.append(buffer.getvalue())
    start = files[0].index(b"\xff\xda")
    assert len({file[:start] for file in files}) == 1
    scans = [np.frombuffer(file[start:], np.uint8) for file in files]
    arrays = {
        "header": np.frombuffer(files[0][:start], np.uint8),
        "test_scan": np.concatenate(scans),
        "test_offsets": np.cumsum([0, *map(len, scans)]).astype(np.int32),
        "test_labels": labels,
    }
    return arrays, files


def test_cifar10_as_jpeg_says_so(tmp_path: Path) -> None:
    arrays, files = jpeg_arrays(*batch(1))
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    got = read_images("cifar10", tmp_path, "test")
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    np.testing.assert_array_equal(got.images, decoded)
    np.testing.assert_array_equal(got.labels, arrays["test_labels"])
    assert got.origin == "CIFAR-10 re-encoded as JPEG, not the official pixels"
    with pytest.raises(DataError, match=r"cifar10_jpeg.npz: is not a readable cifar10_jpeg.npz"):
        read_images("cifar10", tmp_path, "train")


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("test_offsets", lambda a: a.astype(float), "offsets must be a row of integers, not float"),
        ("test_offsets", lambda a: a[None], r"offsets must be a row of integers, not .* \(1, 5\)"),
        ("test_offsets", lambda a: a[:-1], "test must have one label 0..255 for each image"),
        ("test_labels", lambda a: a.astype(int) + 256, "test must have one label 0..255"),
        ("test_scan", lambda a: a[:, None], "scan must be a row of integers"),
    ],
)
def test_arrays_of_jpegs_must_fit_each_other(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], sentence: str
) -> None:
    arrays, _ = jpeg_arrays(*batch(1))
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays | {name: change(arrays[name])})
    with pytest.raises(DataError, match=sentence):
        read_images("cifar10", tmp_path, "test")


def test_jpegs_of_another_size_are_refused(tmp_path: Path) -> None:
    arrays, _ = jpeg_arrays(pictures(4, (1, 1, 3), 1)[0], batch(1)[1])
    np.savez(tmp_path / "cifar10_jpeg.npz", **arrays)
    with pytest.raises(DataError, match=r"image 0 of test must be 32 x 32, not \(1, 1\)"):
        read_images("cifar10", tmp_path, "test")


def test_arrays_that_unpack_to_too_much_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    np.savez_compressed(path, header=np.zeros(200_000_001, np.uint8))
    with pytest.raises(DataError, match="must unpack to 200000000 bytes at most, not 200000129"):
        read_images("cifar10", tmp_path, "test")


def test_a_packed_array_with_a_damaged_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cifar10_jpeg.npz"
    np.savez_compressed(path, header=np.arange(4000, dtype=np.uint16).view(np.uint8))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"is not a readable cifar10_jpeg.npz"):
        read_images("cifar10", tmp_path, "test")


def test_fashion_mnist_packed_unpacked_and_prefixed(tmp_path: Path) -> None:
    write_fashion(tmp_path / "packed")
    first = read_images("fashion-mnist", tmp_path / "packed", "test")
    images, labels = pictures(60, (28, 28, 1), 1)
    np.testing.assert_array_equal(first.images, images)
    np.testing.assert_array_equal(first.labels, labels)
    assert set(first.sha256) == {"t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"}
    for folder, name in (("plain", "{}"), ("named", "fashion_mnist_{}.gz")):
        (tmp_path / folder).mkdir()
        for path in (tmp_path / "packed").glob("t10k-*"):
            raw = path.read_bytes()
            content = raw if name.endswith(".gz") else gzip.decompress(raw)
            (tmp_path / folder / name.format(path.stem)).write_bytes(content)
        again = read_images("fashion-mnist", tmp_path / folder, "test")
        np.testing.assert_array_equal(again.images, first.images)


class Harmful:
    """What a pickle could do to its reader."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harmful-was-run"),))


def _write_cifar(folder: Path, content: bytes, ending: str = "") -> None:
    inner = "cifar-10-batches-bin" if ending else "cifar-10-batches-py"
    as_folder(folder, inner, {f"test_batch{ending}": content})


def _write_idx(folder: Path, images: bytes, labels: bytes) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(images)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(labels)


_IMAGES, _LABELS = pictures(3, (28, 28, 1), 0)
_IDX = idx(_IMAGES[..., 0])


@pytest.mark.parametrize(
    ("dataset", "write", "sentence"),
    [
        ("cifar10", lambda f: None, "must hold one of cifar-10-batches-py, cifar-10-python.tar.gz"),
        (
            "cifar10",
            lambda f: _write_cifar(f, pickle.dumps(Harmful())),
            "is not a batch of CIFAR-10's Python version: holds pathlib.Path.touch",
        ),
        (
            "cifar10",
            lambda f: _write_cifar(f, b"\x80\x02 cut off"),
            "is not a batch of CIFAR-10's Python version",
        ),
        (
            "cifar10",
            lambda f: _write_cifar(f, pickle.dumps({b"data": np.zeros((2, 9), np.uint8)}, 2)),
            "is not a batch of CIFAR-10's Python version: b'labels'",
        ),
        (
            "cifar10",
            lambda f: _write_cifar(
                f, pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [1, 2]}, 2)
            ),
            r"must hold rows of 3072 bytes, not uint8 \(2, 9\)",
        ),
        (
            "cifar10",
            lambda f: _write_cifar(f, bytes(3072), ".bin"),
            "must be whole records of 3073 bytes, but has 3072 bytes",
        ),
        (
            "cifar10",
            lambda f: _write_cifar(f, b"\x0a" + bytes(3072), ".bin"),
            "test's labels must be below 10",
        ),
        (
            "cifar10",
            lambda f: (f / "cifar-10-binary.tar.gz").write_bytes(b"no archive"),
            "is not a readable .tar.gz",
        ),
        (
            "cifar10",
            lambda f: as_archive(f, "cifar-10-batches-py", {"readme": b""}),
            "must hold 'test_batch'",
        ),
        ("fashion-mnist", lambda f: None, "must hold one of t10k-images-idx3-ubyte.gz, t10k-"),
        (
            "fashion-mnist",
            lambda f: _write_idx(f, _IDX[:-1], idx(_LABELS)),
            r"must hold \(3, 28, 28\) bytes after its header, not 2351",
        ),
        (
            "fashion-mnist",
            lambda f: _write_idx(f, _IDX[:4] + b"\x80\0\0\0" * 2 + b"\0\0\0\4", idx(_LABELS)),
            r"must hold \(2147483648, 2147483648, 4\) bytes after its header, not 0",
        ),
        (
            "fashion-mnist",
            lambda f: _write_idx(f, idx(_LABELS), idx(_LABELS)),
            "must be an IDX file of unsigned bytes with 3 axes",
        ),
        (
            "fashion-mnist",
            lambda f: _write_idx(f, _IDX, idx(_LABELS[:2])),
            r"test must be \[n, 28, 28, 1\] with n labels",
        ),
        (
            "fashion-mnist",
            lambda f: (f / "t10k-images-idx3-ubyte.gz").write_bytes(b"\x1f\x8b no gzip"),
            "is not a readable .gz",
        ),
    ],
)
def test_wrong_files_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dataset: str,
    write: Callable[[Path], object],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    with pytest.raises(DataError, match=sentence):
        read_images(dataset, tmp_path, "test")
    assert not Path("harmful-was-run").exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder with the data set's files"):
        read_images("cifar10", tmp_path / "nowhere", "test")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize("name", sorted(DATASETS))
def test_the_real_test_splits(name: str) -> None:
    split: ImageSplit = read_images(name, SHARED, "test")
    assert len(split) == 10_000
    np.testing.assert_array_equal(np.bincount(split.labels), np.full(10, 1000))
