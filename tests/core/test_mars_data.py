"""Both forms of the data set, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emamba.data import DataError, read_mars
from emamba.data.mars import read_unlabelled


def arrays(frames: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "features": rng.random((frames, 8, 8, 5), np.float32),
        "labels": rng.random((frames, 57), np.float32),
        "subject": np.ones(frames, np.uint8),
        "movement": np.full(frames, 3, np.uint8),
    }


def write_official(folder: Path, features: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "featuremap_test.npy", features)
    np.save(folder / "labels_test.npy", labels)


def test_both_forms_give_the_same_frames(tmp_path: Path) -> None:
    a = arrays()
    np.savez(tmp_path / "mars_test.npz", **a)
    write_official(tmp_path / "clone" / "feature", a["features"].astype(np.float64), a["labels"])
    packed = read_mars(tmp_path, "test")
    for folder in (tmp_path / "clone", tmp_path / "clone" / "feature"):
        official = read_mars(folder, "test")
        np.testing.assert_array_equal(official.features, packed.features)
        np.testing.assert_array_equal(official.labels, packed.labels)
        assert official.origin == "official feature maps"
        assert not official.subject.any()
    assert packed.origin == "features rebuilt from the official radar CSVs"
    assert set(packed.sha256) == {"mars_test.npz"}
    assert (packed.subject[0], packed.movement[0]) == (1, 3)


def test_missing_data_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"must hold mars_test.npz or feature/featuremap_test.npy, but has neither"
    ):
        read_mars(tmp_path, "test")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "mars_test.npz"
    path.touch()
    with pytest.raises(DataError, match=r"mars_test.npz: must be a folder of splits, such as /"):
        read_mars(path, "test")


def _with(**changes: np.ndarray) -> dict[str, np.ndarray]:
    return arrays() | changes


NAN = arrays()["features"].copy()
NAN[4, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_with(features=np.zeros((6, 8, 8, 4), np.float32)), r"must have shape \(n, 8, 8, 5\)"),
        (_with(features=np.zeros((6, 64, 5), np.float32)), r"must have shape \(n, 8, 8, 5\)"),
        (_with(features=np.zeros((6, 8, 8, 5), "U1")), "features must be numbers, not <U1"),
        (_with(features=NAN), "frame 4: features must be finite numbers"),
        (_with(labels=np.zeros((5, 57))), r"labels must be numbers of shape \(6, 57\)"),
        (_with(labels=np.full((6, 57), np.inf)), "labels must be finite"),
        (_with(subject=np.zeros(6)), "subject must be 6 integers, not float64"),
        (_with(movement=np.zeros(5, np.uint8)), "movement must be 6 integers"),
        ({"features": np.zeros((1, 8, 8, 5))}, r"but lacks \['labels', 'movement', 'subject'\]"),
    ],
)
def test_wrong_content_is_refused(
    tmp_path: Path, content: dict[str, np.ndarray], reason: str
) -> None:
    np.savez(tmp_path / "mars_test.npz", **content)
    with pytest.raises(DataError, match=reason) as caught:
        read_mars(tmp_path, "test")
    assert "mars_test.npz" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 200, -30])
def test_truncated_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "mars_test.npz"
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"mars_test.npz: is not a readable .npz, damaged or cut short"
    ):
        read_mars(tmp_path, "test")
    write_official(tmp_path / "c" / "feature", arrays()["features"], arrays()["labels"])
    official = tmp_path / "c" / "feature" / "featuremap_test.npy"
    official.write_bytes(official.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"featuremap_test.npy: is not a readable .npy"):
        read_mars(tmp_path / "c", "test")


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "mars_test.npz", **_with(labels=np.array([{}] * 6)))
    with pytest.raises(
        DataError,
        match=r"is not a readable .npz, damaged or cut short: Object arrays cannot be loaded",
    ):
        read_mars(tmp_path, "test")


def test_official_features_need_their_labels(tmp_path: Path) -> None:
    write_official(tmp_path / "feature", arrays()["features"], arrays()["labels"])
    (tmp_path / "feature" / "labels_test.npy").unlink()
    with pytest.raises(DataError, match=r"labels_test.npy: does not exist"):
        read_mars(tmp_path, "test")


def test_unlabelled_frames_need_only_features(tmp_path: Path) -> None:
    path = tmp_path / "radar.npz"
    np.savez(path, features=arrays()["features"])
    maps, sha256 = read_unlabelled(path)
    np.testing.assert_array_equal(maps, arrays()["features"])
    assert set(sha256) == {"radar.npz"}
    with pytest.raises(DataError, match="does not exist"):
        read_unlabelled(tmp_path / "nothing.npz")
