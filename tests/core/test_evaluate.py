from __future__ import annotations

import numpy as np
import pytest

from emamba.data import ImageSplit, MarsSplit
from emamba.evaluate import (
    calibration_error,
    class_report,
    fit_temperature,
    in_batches,
    pose_errors,
    pose_report,
)


def split(labels: np.ndarray, subject: list[int], movement: list[int]) -> MarsSplit:
    return MarsSplit(
        np.zeros((len(labels), 8, 8, 5), np.float32),
        labels.astype(np.float32),
        np.array(subject, np.uint8),
        np.array(movement, np.uint8),
        {},
        "made up",
    )


def test_errors_are_per_coordinate_then_averaged() -> None:
    """Two coordinates with errors (3, 4) and (0, 2) cm over two frames."""
    error = np.array([[0.03, 0.0], [-0.04, 0.02]])
    got = pose_errors(error[..., None])
    assert got["mae_cm"] == pytest.approx((3.5 + 1.0) / 2)
    assert got["rmse_cm"] == pytest.approx((np.sqrt(12.5) + np.sqrt(2.0)) / 2)


def test_report_groups_by_axis_joint_subject_and_movement() -> None:
    labels = np.zeros((4, 57))
    joints = np.zeros((4, 19, 3))
    joints[:, 3, 0] = 0.19  # the head's x, 19 cm off in every frame
    joints[2:, :, 1] = 0.02  # subject 2's y
    report = pose_report(joints, split(labels, [1, 1, 2, 2], [4, 5, 4, 5]))
    assert report["frames"] == 4
    assert report["per_axis"]["x"]["mae_cm"] == pytest.approx(1.0)
    assert report["per_axis"]["z"] == {"mae_cm": 0.0, "rmse_cm": 0.0}
    assert report["per_joint"]["Head"]["mae_cm"] == pytest.approx((19 + 1) / 3)
    assert list(report["per_subject"]) == ["1", "2"]
    assert report["per_subject"]["1"]["mae_cm"] == pytest.approx(1 / 3)
    assert report["per_subject"]["2"]["mae_cm"] == pytest.approx(1 / 3 + 2 / 3)
    assert list(report["per_movement"]) == ["4", "5"]


def test_unknown_subjects_are_left_out() -> None:
    report = pose_report(np.zeros((2, 19, 3)), split(np.zeros((2, 57)), [0, 0], [0, 0]))
    assert (report["per_subject"], report["per_movement"]) == ({}, {})


@pytest.mark.parametrize("bad", [np.full((2, 19, 3), np.nan), np.zeros((1, 19, 3))])
def test_missing_or_nan_predictions_fail(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"must be finite and of shape \(2, 19, 3\)"):
        pose_report(bad, split(np.zeros((2, 57)), [0, 0], [0, 0]))


def test_batches_are_joined_in_order() -> None:
    seen = []

    def run(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return batch * 2

    np.testing.assert_array_equal(in_batches(run, np.arange(10), 4), 2 * np.arange(10))
    assert seen == [4, 4, 2]


def images(labels: list[int], classes: int = 3) -> ImageSplit:
    count = len(labels)
    names = tuple(f"class-{number}" for number in range(classes))
    return ImageSplit(
        np.zeros((count, 4, 4, 1), np.uint8), np.array(labels, np.uint8), names, {}, "made up"
    )


def test_class_report_counts_by_label_and_answer() -> None:
    answers = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
    report = class_report(answers, images([0, 1, 1, 2]))
    assert report["frames"] == 4
    assert report["accuracy"] == 0.75
    assert report["per_class"] == {"class-0": 1.0, "class-1": 0.5, "class-2": 1.0}
    assert report["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    likelihoods = np.log([0.6, 0.7, 0.4, 0.6])
    assert report["negative_log_likelihood"] == pytest.approx(-likelihoods.mean())


def test_a_class_without_images_has_no_accuracy() -> None:
    report = class_report(np.full((2, 3), 1 / 3), images([0, 0]))
    assert list(report["per_class"]) == ["class-0"]


@pytest.mark.parametrize("answers", [np.full((2, 3), np.nan), np.full((1, 3), 1 / 3)])
def test_missing_probabilities_fail(answers: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"predictions must be finite and of shape \(2, 3\)"):
        class_report(answers, images([0, 1]))


def test_calibration_error_is_the_gap_of_each_bin() -> None:
    """Ten answers of confidence 0.9 of which 7 are right, and ten of 0.6 of which all are."""
    confident, unsure = np.tile([0.9, 0.1], (10, 1)), np.tile([0.6, 0.4], (10, 1))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 10)
    error = calibration_error(np.concatenate([confident, unsure]), labels)
    assert error == pytest.approx((10 * 0.2 + 10 * 0.4) / 20)
    assert calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_is_found_again(temperature: float) -> None:
    """Labels drawn from softmax(logits / T). Tolerance: 20,000 draws."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 5))
    scaled = np.exp(logits / temperature)
    cumulative = np.cumsum(scaled / scaled.sum(1, keepdims=True), 1)
    labels = (rng.random((20_000, 1)) > cumulative).sum(1)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)
