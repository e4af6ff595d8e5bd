"""MARS, the mmWave pose data set, in either form that people have.

- As cloned from SizheAn/MARS: a folder with `feature/featuremap_<split>.npy` and
  `feature/labels_<split>.npy` (or that `feature` folder itself).
- As one `mars_<split>.npz` per split with `features`, `labels`, `subject`, `movement`, `frame`
  (features rebuilt from the official radar CSVs).

Splits are `train`, `validate`, `test`, each cut from every movement in time: 60, 20, 20 %.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.data.files import DataError, read_file
from emamba.tasks import InputError
from emamba.tasks.mars import JOINTS, MAP_SHAPE, check_features

__all__ = ["MarsSplit", "read_mars", "read_unlabelled"]

N_OUTPUTS = 3 * len(JOINTS)
REBUILT = "features rebuilt from the official radar CSVs"
OFFICIAL = "official feature maps"


@dataclass(frozen=True)
class MarsSplit:
    """One split. `subject` (1..4), `movement` (1..10) are 0 where the form does not state them.

    `sha256` maps each file read to its hash; `origin` says how the features came about and goes
    wherever a result on them is stated.
    """

    features: npt.NDArray[np.float32]  # (n, 8, 8, 5)
    labels: npt.NDArray[np.float32]  # (n, 57) metres: 19 x, 19 y, 19 z
    subject: npt.NDArray[np.uint8]  # (n,)
    movement: npt.NDArray[np.uint8]  # (n,)
    sha256: dict[str, str]
    origin: str

    def __len__(self) -> int:
        return len(self.features)

    @property
    def inputs(self) -> npt.NDArray[Any]:
        """What the task's `encode` takes."""
        return self.features

    def take(self, rows: npt.NDArray[Any]) -> MarsSplit:
        """Some frames, by number or mask."""
        names = ("features", "labels", "subject", "movement")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})


def read_mars(folder: Path, split: str) -> MarsSplit:
    """One split from either form; raises `DataError` if it is missing, misshapen or not finite."""
    if folder.is_file():
        raise DataError(folder, f"must be a folder of splits, such as {folder.parent}")
    packed = folder / f"mars_{split}.npz"
    if packed.exists():
        return _read_packed(packed)
    for place in (folder / "feature", folder):
        features = place / f"featuremap_{split}.npy"
        if features.exists():
            return _read_official(features, place / f"labels_{split}.npy")
    raise DataError(
        folder, f"must hold mars_{split}.npz or feature/featuremap_{split}.npy, but has neither"
    )


def read_unlabelled(path: Path) -> tuple[npt.NDArray[np.float32], dict[str, str]]:
    """Maps (n, 8, 8, 5) of an .npz without labels, and the file's hash as in `MarsSplit`."""
    sha256: dict[str, str] = {}
    blob = read_file(path, sha256)
    return _features(path, _load_npz(path, blob, {"features"})["features"]), sha256


def _read_packed(path: Path) -> MarsSplit:
    sha256: dict[str, str] = {}
    blob = read_file(path, sha256)
    arrays = _load_npz(path, blob, {"features", "labels", "subject", "movement"})
    features = _features(path, arrays["features"])
    return MarsSplit(
        features,
        _labels(path, arrays["labels"], len(features)),
        _tags(path, arrays["subject"], len(features), "subject"),
        _tags(path, arrays["movement"], len(features), "movement"),
        sha256,
        REBUILT,
    )


def _read_official(features_path: Path, labels_path: Path) -> MarsSplit:
    sha256: dict[str, str] = {}
    blobs = [read_file(path, sha256) for path in (features_path, labels_path)]
    features = _features(features_path, _load_npy(features_path, blobs[0]))
    labels = _labels(labels_path, _load_npy(labels_path, blobs[1]), len(features))
    unknown = np.zeros(len(features), np.uint8)
    return MarsSplit(features, labels, unknown, unknown, sha256, OFFICIAL)


def _load_npy(path: Path, blob: bytes) -> npt.NDArray[Any]:
    try:
        loaded = np.load(io.BytesIO(blob), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(path, f"is not a readable .npy, damaged or cut short: {error}") from error
    if not isinstance(loaded, np.ndarray):
        raise DataError(path, "must hold one array, but is an archive")
    return loaded


def _load_npz(path: Path, blob: bytes, wanted: set[str]) -> dict[str, npt.NDArray[Any]]:
    try:
        loaded = np.load(io.BytesIO(blob), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise DataError(path, "must be an archive, but holds one array")
        with loaded as archive:
            missing = wanted - set(archive.files)
            if missing:
                raise DataError(path, f"must hold {sorted(wanted)}, but lacks {sorted(missing)}")
            return {name: archive[name] for name in wanted}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(path, f"is not a readable .npz, damaged or cut short: {error}") from error


def _features(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if array.dtype.kind not in "fiu":
        raise DataError(path, f"features must be numbers, not {array.dtype}")
    if array.ndim != 1 + len(MAP_SHAPE) or array.shape[1:] != MAP_SHAPE:
        raise DataError(path, f"features must have shape (n, 8, 8, 5), not {array.shape}")
    try:
        return check_features(array)
    except InputError as error:
        raise DataError(path, str(error)) from error


def _labels(path: Path, array: npt.NDArray[Any], frames: int) -> npt.NDArray[np.float32]:
    if array.shape != (frames, N_OUTPUTS) or array.dtype.kind not in "fiu":
        raise DataError(
            path, f"labels must be numbers of shape ({frames}, {N_OUTPUTS}), not {array.shape}"
        )
    if not np.isfinite(array).all():
        raise DataError(path, "labels must be finite, but hold NaN or infinity")
    return array.astype(np.float32)


def _tags(path: Path, array: npt.NDArray[Any], frames: int, what: str) -> npt.NDArray[np.uint8]:
    if array.shape != (frames,) or array.dtype.kind not in "iu":
        raise DataError(path, f"{what} must be {frames} integers, not {array.dtype} {array.shape}")
    return array.astype(np.uint8)
