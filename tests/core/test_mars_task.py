"""Point clouds to maps, maps to integers, integers to joints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emamba.data import read_mars
from emamba.tasks import InputError
from emamba.tasks.mars import JOINTS, check_features, check_map, feature_map, feature_maps
from random_models import pose_task

clouds = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 100), st.just(5)),
    elements=st.floats(0, 100, width=32),
)


def test_points_are_sorted_padded_and_laid_out_row_major() -> None:
    got = feature_map([[1, 5, 0, 0, 9], [0, 2, 8, 1, 7], [0, 2, 3, 4, 6]]).reshape(64, 5)
    np.testing.assert_array_equal(got[:3], [[0, 2, 3, 4, 6], [0, 2, 8, 1, 7], [1, 5, 0, 0, 9]])
    assert not got[3:].any()


@given(clouds, st.randoms(use_true_random=False))
def test_map_does_not_depend_on_the_order_of_distinct_points(
    cloud: np.ndarray, random: object
) -> None:
    distinct = np.unique(cloud[:64], axis=0)
    _, first = np.unique(distinct[:, :3], axis=0, return_index=True)
    distinct = distinct[first]
    shuffled = distinct.copy()
    random.shuffle(order := list(range(len(distinct))))  # type: ignore[attr-defined]
    shuffled = distinct[order]
    np.testing.assert_array_equal(feature_map(shuffled), feature_map(distinct))


@given(clouds)
def test_map_keeps_the_most_intense_points(cloud: np.ndarray) -> None:
    got = feature_map(cloud).reshape(64, 5)
    kept = min(64, len(cloud))
    want = np.sort(cloud[:, 4])[::-1][:kept]
    np.testing.assert_array_equal(np.sort(got[:kept, 4])[::-1], want)


@pytest.mark.parametrize("split", ["train", "validate", "test"])
def test_rule_rebuilds_every_map_of_the_data_set(mars_data: Path, split: str) -> None:
    with np.load(mars_data / f"mars_{split}.npz") as archive:
        maps, counts = archive["features"], archive["num_points"]
    for frame, count in zip(maps[::7], counts[::7], strict=True):
        points = frame.reshape(64, 5)[:count][::-1]
        rebuilt = feature_map(points).reshape(64, 5)
        np.testing.assert_array_equal(rebuilt[:, :3], frame.reshape(64, 5)[:, :3])
        np.testing.assert_array_equal(np.sort(rebuilt, 0), np.sort(frame.reshape(64, 5), 0))


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([], r"points must have shape \[n, 5\], not \[0\]"),
        (np.zeros((0, 5)), "points must hold at least 1 point, but the frame is empty"),
        ([[1, 2, 3, 4]], r"points must have shape \[n, 5\], not \[1, 4\]"),
        ([1, 2, 3, 4, 5], r"points must have shape \[n, 5\], not \[5\]"),
        ([[1, 2, 3, 4, 5], [1]], "points must be a rectangular array of numbers"),
        ([["a", 2, 3, 4, 5]], "points must be a rectangular array of numbers"),
        ([[None, 2, 3, 4, 5]], "must be finite numbers, but hold NaN or infinity"),
        ([[1, 2, 3, float("nan"), 5]], "must be finite numbers, but hold NaN or infinity"),
        ([[1, float("-inf"), 3, 4, 5]], "must be finite numbers, but hold NaN or infinity"),
        ([[0.1, 1900.0, 3, 4, 5]], r"within 100 m and 100 m/s, .* but hold 1900; are the units"),
        ([[1e300, 2, 3, 4, 5]], r"but hold 1e\+300; are the units metres and m/s\?"),
        ([[1, 2, 3, -101, 5]], "but hold -101; are the units"),
        ([[1, 2, 3, 4, 2e6]], r"intensity within 1e6, but hold 2e\+06"),
        ([[1, 2, 3, 4, -5]], "must have intensity >= 0, but hold a negative one"),
        ({"x": 1}, "points must be a rectangular array of numbers"),
    ],
)
def test_points_that_are_no_frame_are_refused(points: object, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        feature_map(points)  # type: ignore[arg-type]


def test_a_bad_frame_of_a_batch_is_named() -> None:
    good = [[0, 1, 2, 3, 4]]
    with pytest.raises(InputError, match=r"^frame 1: points must have shape"):
        feature_maps([good, [[1]], good])
    maps = np.ones((3, 8, 8, 5), np.float32)
    maps[2, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"^frame 2: features must be finite"):
        check_features(maps)


def test_a_map_of_zeros_is_taken_as_it_is() -> None:
    np.testing.assert_array_equal(check_features(np.zeros((2, 8, 8, 5))), np.zeros((2, 8, 8, 5)))


def test_features_of_another_shape_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"features must have shape \[n, 8, 8, 5\], not \[8, 8, 5\]"
    ):
        check_features(np.zeros((8, 8, 5)))


def test_one_map_is_checked_as_a_batch_of_one_is() -> None:
    one = np.arange(320.0).reshape(8, 8, 5) / 10
    np.testing.assert_array_equal(check_map(one), check_features(one[None])[0])
    with pytest.raises(InputError, match=r"^features must have shape \[8, 8, 5\], not \[8, 8\]"):
        check_map(one[..., 0])
    with pytest.raises(InputError, match=r"^features must have intensity >= 0"):
        check_map(-one)


def test_encode_is_log1p_on_intensity_then_affine() -> None:
    maps = np.full((1, 8, 8, 5), 2.0, np.float32)
    task = pose_task()
    want = (np.array([2, 2, 2, 2, np.log1p(2)]) - task.input_offset) / task.input_scale
    np.testing.assert_allclose(task.encode(maps)[0, 3, 3], want, rtol=1e-12)
    assert maps[0, 0, 0, 4] == 2.0


def test_decode_puts_x_y_z_of_each_joint_together() -> None:
    task = pose_task()
    outputs = np.arange(57.0)[None]
    joints = task.decode(outputs)
    assert joints.shape == (1, len(JOINTS), 3)
    flat = outputs[0] * task.output_scale + task.output_offset
    np.testing.assert_array_equal(joints[0, 4], [flat[4], flat[23], flat[42]])


def test_shipped_splits_have_their_documented_sizes(mars_data: Path) -> None:
    assert len(read_mars(mars_data, "test")) == 7984
    assert len(read_mars(mars_data, "validate")) == 8033
