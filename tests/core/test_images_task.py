"""Pixels to integers, integers to probabilities, and the task's section of a package."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emamba.engines import MirrorEngine
from emamba.package import PackageError, load_package
from emamba.tasks import ImageTask, InputError, TaskError, task_from_json
from emamba.tasks.images import check_images
from random_images import GREY_CONFIG, RGB_CONFIG, image_task, write_images
from random_models import MARS_CONFIG, pose_task

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(0, 5), *map(st.just, (8, 12, 3))))


@given(pictures)
def test_encode_is_affine_in_each_channel(images: np.ndarray) -> None:
    task = image_task(RGB_CONFIG)
    want = (images / 255 - np.array(task.input_offset)) / np.array(task.input_scale)
    got = task.encode(images)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, want)


@given(hnp.arrays(np.float64, (3, 10), elements=st.floats(-1e6, 1e6)))
def test_decode_is_the_softmax_of_the_logits(outputs: np.ndarray) -> None:
    task = image_task(GREY_CONFIG)
    got = task.decode(outputs)
    logits = (task.output_offset + outputs * task.output_scale) / task.temperature
    exact = np.exp(logits.astype(np.longdouble) - logits.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    # Logits of up to some hundreds, rounded to 53 bits, then exp, a sum of 10 and a quotient.
    np.testing.assert_allclose(got, exact.astype(np.float64), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-14)


def test_temperature_flattens_and_keeps_the_order() -> None:
    cold = image_task(GREY_CONFIG)
    warm = ImageTask(**(vars(cold) | {"temperature": 100.0}))
    outputs = np.random.default_rng(0).normal(0, 50, (20, 10))
    np.testing.assert_array_equal(
        warm.decode(outputs).argsort(axis=1), cold.decode(outputs).argsort(axis=1)
    )
    assert (warm.decode(outputs).max(axis=1) < cold.decode(outputs).max(axis=1)).all()


def test_images_are_taken_as_they_are_whatever_integers_hold_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1))
    for given_as in (images, images.astype(np.uint8), images.astype(np.uint64), images.tolist()):
        got = check_images(given_as, (8, 8, 1))
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, images)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((8, 8, 1), np.uint8), "images must have shape [n, 8, 8, 1], not [8, 8, 1]"),
        (np.zeros((2, 8, 8, 3)), "images must have shape [n, 8, 8, 1], not [2, 8, 8, 3]"),
        (np.zeros((2, 8, 8, 1)), "images must hold integers 0..255, but are of type float64"),
        (np.zeros((2, 8, 8, 1), bool), "images must hold integers 0..255, but are of type bool"),
        (np.full((1, 8, 8, 1), -1), "frame 0: images must hold integers 0..255, but hold -1"),
        ([[[1]], [[1, 2]]], "images must be a rectangular array of integers"),
        ("picture", "images must have shape [n, 8, 8, 1], not []"),
    ],
)
def test_images_that_are_none_are_refused(images: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        check_images(images, (8, 8, 1))
    assert str(caught.value) == sentence


def test_a_value_beyond_a_byte_names_its_image() -> None:
    images = np.zeros((3, 8, 8, 1), int)
    images[2, 7, 7, 0] = 256
    with pytest.raises(InputError) as caught:
        check_images(images, (8, 8, 1))
    assert str(caught.value) == "frame 2: images must hold integers 0..255, but hold 256"
    assert caught.value.index == 2


@pytest.mark.parametrize("config", [GREY_CONFIG, RGB_CONFIG])
def test_a_package_computes_what_its_parts_do(tmp_path: Path, config: Any) -> None:
    package = load_package(write_images(tmp_path, "pictures", "1", config))
    task = image_task(config)
    assert package.task == task
    assert package.task.to_json() == json.loads(json.dumps(task.to_json()))
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (6, *config.input_shape)).astype(np.uint8)
    integers = package.encode(images)
    assert integers.dtype == np.int8
    outputs = MirrorEngine(package.model).run(integers)
    probabilities = package.decode(outputs)
    assert probabilities.shape == (6, config.n_outputs)
    lsb = package.model.formats["output"].lsb
    np.testing.assert_array_equal(probabilities, task.decode(outputs * lsb))
    assert len(np.unique(probabilities, axis=0)) > 1


def test_outputs_have_names() -> None:
    assert image_task(GREY_CONFIG).output_name(3) == "class class-3"
    assert pose_task().output_name(20) == "y of SpineMid"
    assert [pose_task().output_name(output)[0] for output in (0, 18, 19, 56)] == list("xxyz")


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(section: dict[str, Any]) -> None:
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value

    return change


NAMES = [f"class-{number}" for number in range(10)]
NAMED = (
    "task.output.classes must name each of the 10 outputs in printable characters; a classifier "
    "has at least 2"
)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (put("kind", value=["image-classes"]), None),
        (put("input", "shape", value=[8, 8, 3]), "task.input.shape must be [8, 8, 1]"),
        (put("input", "channels", value=["gray"]), "task.input.channels must be ['grey']"),
        (put("output", "classes", value=NAMES[:9]), NAMED),
        (put("output", "classes", value=[*NAMES[:9], ""]), NAMED),
        (put("output", "classes", value=[*NAMES[:9], 9]), NAMED),
        (put("output", "classes", value=[*NAMES[:9], "two\nlines"]), NAMED),
        (put("output", "classes", value="abcdefghij"), NAMED),
        (
            put("output", "classes", value=[*NAMES[:9], "class-0"]),
            "task.output.classes must differ, but 'class-0' is there twice",
        ),
        (put("input", "offset", value=[0, 0]), "task.input.offset must be 1 finite number"),
        (put("input", "scale", value=[0]), "task.input.scale must be positive, but holds 0"),
        (put("input", "scale", value=[1e-9]), "task.input.scale must lie within 1e-06..1e+06"),
        (put("output", "offset", value=[-1e7] * 10), "task.output.offset must lie within "),
        (put("output", "scale", value=[True] * 10), "task.output.scale must be 10 finite numbers"),
        (
            put("output", "temperature", value=0.0),
            "task.output.temperature must be positive, but holds 0.0",
        ),
        (
            put("output", "temperature", value=float("inf")),
            "task.output.temperature must be 1 finite number",
        ),
        (lambda section: section.pop("input"), "task section lacks or misstates 'input'"),
        (
            lambda section: section["output"].pop("temperature"),
            "task section lacks or misstates 'temperature'",
        ),
        (put("output", value=None), "task section lacks or misstates "),
    ],
)
def test_a_section_at_odds_with_its_model_is_refused(change: Any, sentence: str | None) -> None:
    section = copy.deepcopy(image_task(GREY_CONFIG).to_json())
    assert task_from_json(section, GREY_CONFIG) == image_task(GREY_CONFIG)
    change(section)
    with pytest.raises(TaskError) as caught:
        task_from_json(section, GREY_CONFIG)
    if sentence is None:
        sentence = "task kind must be one of ['image-classes', 'mars-pose'], not ['image-classes']"
    assert str(caught.value).startswith(sentence)


def test_each_task_refuses_the_others_model() -> None:
    with pytest.raises(TaskError) as caught:
        task_from_json(image_task(GREY_CONFIG).to_json(), MARS_CONFIG)
    assert str(caught.value) == (
        "an image-classes model must take 1 channel, grey, or 3, red, green and blue, not 5"
    )
    with pytest.raises(TaskError, match="a mars-pose model must map"):
        task_from_json(pose_task().to_json(), GREY_CONFIG)


def test_a_damaged_section_is_named_with_its_package(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "digits", "1", GREY_CONFIG)
    header = json.loads((folder / "model.json").read_text())
    header["task"]["output"]["temperature"] = -1
    (folder / "model.json").write_text(json.dumps(header))
    with pytest.raises(PackageError, match=r"task\.output\.temperature must be positive"):
        load_package(folder)


def test_poses_are_not_evaluated_on_an_image_model(tmp_path: Path) -> None:
    folder = write_images(tmp_path, "digits", "1", GREY_CONFIG)
    result = subprocess.run(
        [sys.executable, "-m", "emamba.cli", "evaluate", folder, "--data", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "must be the data of the model's classes, but class-0, class-1," in result.stderr
    assert result.stderr.endswith("are those of neither fashion-mnist nor cifar10\n")
