"""Poses over HTTP are the package's own, whichever way the frame is sent."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.engines import MirrorEngine
from emamba.package import load_package
from emamba.tasks.mars import JOINTS, feature_map
from emamba_service.app import create_app
from emamba_service.schemas import EXAMPLES


def joints(pose: dict[str, Any]) -> np.ndarray:
    assert [joint["name"] for joint in pose["joints"]] == list(JOINTS)
    return np.array([[joint[axis] for axis in ("x_m", "y_m", "z_m")] for joint in pose["joints"]])


def test_answer_has_exactly_the_documented_members(service, points):
    answer = service.pose({"points": points}).json()
    assert list(answer) == ["model", "version", "engine", "poses", "timing_us"]
    assert (answer["model"], answer["version"], answer["engine"]) == ("mars", "10", "mirror")
    assert list(answer["poses"][0]) == ["joints"]
    assert list(answer["poses"][0]["joints"][0]) == ["name", "x_m", "y_m", "z_m"]
    stages = ["preprocess", "queue", "quantise", "engine", "postprocess"]
    assert list(answer["timing_us"]) == [*stages, "total"]
    total = answer["timing_us"].pop("total")
    assert 0 < sum(answer["timing_us"].values()) <= total + 0.5


@pytest.mark.parametrize("version", ["9", "10"])
def test_joints_are_the_packages_bit_for_bit(service, points, models_dir: Path, version):
    package = load_package(models_dir / "mars" / version)
    integers = MirrorEngine(package.model).run(package.encode(feature_map(points)[None]))
    answer = service.pose({"model": "mars", "version": version, "points": points}).json()
    assert answer["version"] == version
    np.testing.assert_array_equal(joints(answer["poses"][0]), package.decode(integers)[0])


def test_points_in_any_order_and_their_feature_map_give_the_same_pose(service, points):
    features = feature_map(points).tolist()
    bodies = ({"points": points}, {"points": points[::-1]}, {"features": features})
    first, *others = (service.pose(body).json()["poses"] for body in bodies)
    assert others == [first, first]


def test_batch_of_either_kind_equals_its_frames_one_by_one(service, points):
    other = feature_map(points[:9]).tolist()
    frames = [{"points": points}, {"features": other}, {"points": points[3:4]}]
    batch = service.pose({"frames": frames}).json()["poses"]
    assert batch == [service.pose(frame).json()["poses"][0] for frame in frames]
    assert batch[0] != batch[1] != batch[2]


def test_whole_numbers_and_more_than_64_points_are_read(service):
    crowd = [[n % 7, 2, n // 7, 0, n] for n in range(100)]
    strongest = service.pose({"points": crowd[-64:]}).json()["poses"]
    assert service.pose({"points": crowd}).json()["poses"] == strongest


def test_map_of_zeros_is_taken_as_it_is(service):
    assert len(service.pose({"features": np.zeros((8, 8, 5)).tolist()}).json()["poses"]) == 1


def test_json_with_a_charset_or_other_case_is_accepted(service, points):
    for content_type in ("application/json; charset=utf-8", "Application/JSON"):
        body = b'{"points": [[0, 1, 2, 0, 4]]}'
        headers = {"content-type": content_type, "content-encoding": "identity"}
        assert service.request("POST", "/v1/pose", content=body, headers=headers).is_success


def test_timing_is_the_clocks(calling, settings, points):
    ticks = itertools.count()
    with calling(create_app(settings(), clock=lambda: next(ticks) * 1e-3)) as service:
        timing = service.pose({"points": points}).json()["timing_us"]
        stages = ("preprocess", "queue", "quantise", "engine", "postprocess")
        # Two of the seven steps of the clock lie between the stages.
        assert timing == {**dict.fromkeys(stages, 1000), "total": 7000}
        labels = {"route": "/v1/pose", "status": "200"}
        assert service.sample("emamba_request_duration_seconds_sum", **labels) == pytest.approx(
            9e-3
        )


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_example_succeeds(service, name):
    document = service.get("/openapi.json").json()
    body = document["paths"]["/v1/pose"]["post"]["requestBody"]["content"]["application/json"]
    answer = service.pose(body["examples"][name]["value"])
    assert answer.status_code == 200
    assert len(answer.json()["poses"]) == (2 if name == "batch" else 1)
