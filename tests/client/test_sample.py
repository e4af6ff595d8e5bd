"""The shipped frames: real, complete, unchanged."""

from __future__ import annotations

import hashlib
import runpy
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from emamba_client import sample_frames

REPOSITORY = Path(__file__).resolve().parents[2]
MARS_TEST = REPOSITORY.parent / "shared" / "data" / "mars_test.npz"
SAMPLE = files("emamba_client.samples") / "mars_sample.npz"

THERE = (
    "it has subject 1 with movements 1, 5, 9; subject 2 with movements 2, 6, 10; "
    "subject 3 with movements 3, 7; subject 4 with movements 4, 8"
)


def test_sample_is_the_checked_in_file() -> None:
    data = SAMPLE.read_bytes()
    assert len(data) < 150_000
    assert (
        hashlib.sha256(data).hexdigest()
        == "1e3ce17c232f4f994eb627180d2b9b3a297fc70bfd786de2e8d698260fd55a9a"
    )


def test_sample_has_all_subjects_and_movements() -> None:
    runs = Counter((frame.subject, frame.movement) for frame in sample_frames())
    assert {subject for subject, _ in runs} == {1, 2, 3, 4}
    assert {movement for _, movement in runs} == set(range(1, 11))
    assert set(runs.values()) == {24}


def test_no_frame_is_lost_inside_a_run() -> None:
    for movement in range(1, 11):
        numbers = [frame.number for frame in sample_frames(movement=movement)]
        assert np.array_equal(np.diff(numbers), np.ones(23))


def test_frames_are_finite_points_and_joints() -> None:
    for frame in sample_frames():
        assert frame.points.dtype == np.float32
        assert frame.points.ndim == 2
        assert 1 <= len(frame.points) <= 64
        assert frame.points.shape[1] == 5
        assert frame.labels.shape == (19, 3)
        assert np.isfinite(frame.points).all()
        assert np.isfinite(frame.labels).all()
        assert frame.points[:, 4].min() > 0


def test_labels_are_a_person_in_front_of_the_radar() -> None:
    labels = np.stack([frame.labels for frame in sample_frames()])
    head_above_feet_m = labels[:, 3, 2] - labels[:, 13, 2]
    assert head_above_feet_m.min() > 0.7
    assert 1 < labels[:, :, 1].mean() < 3


def test_frames_are_chosen_by_subject_and_movement() -> None:
    assert len(sample_frames(subject=1)) == 72
    assert len(sample_frames(subject=1, movement=5)) == 24
    with pytest.raises(ValueError, match="has no frames") as caught:
        sample_frames(subject=4, movement=1)
    assert str(caught.value) == ("the sample has no frames of subject 4 and movement 1; " + THERE)


@pytest.mark.parametrize(
    ("asked", "words"), [({"subject": 9}, "subject 9"), ({"movement": 0}, "movement 0")]
)
def test_what_the_sample_lacks_is_named_with_what_it_has(asked: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match="has no frames") as caught:
        sample_frames(**asked)
    assert str(caught.value) == f"the sample has no frames of {words}; {THERE}"


@pytest.mark.skipif(not MARS_TEST.exists(), reason=f"needs {MARS_TEST}")
def test_script_makes_this_sample() -> None:
    make_sample = runpy.run_path(str(REPOSITORY / "client" / "scripts" / "make_sample.py"))
    with np.load(MARS_TEST) as data:
        made = make_sample["make_sample"]({name: data[name] for name in data.files})
    with SAMPLE.open("rb") as file, np.load(file) as shipped:
        assert set(made) == set(shipped.files)
        for name, array in made.items():
            assert array.dtype == shipped[name].dtype
            np.testing.assert_array_equal(array, shipped[name])
