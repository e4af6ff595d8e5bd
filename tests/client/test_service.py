"""Both clients against the real service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from emamba.engines import open_engine
from emamba.package import load_package
from emamba.tasks.mars import feature_map
from emamba_client import (
    JOINTS,
    AsyncClient,
    Client,
    InvalidRequest,
    NotFound,
    PoseResult,
    TooLarge,
    sample_frames,
)
from emamba_service.app import create_app
from emamba_service.settings import Settings

FRAME = sample_frames()[100]


def expected(models_root: Path, points: Any) -> np.ndarray:
    package = load_package(models_root / "mars" / "2")
    engine = open_engine("mirror", package.model)
    return package.decode(engine.run(package.encode(feature_map(points)[None])))[0]


def test_pose_is_what_the_package_computes(client: Client, models_root: Path) -> None:
    result = client.pose(FRAME.points)
    assert (result.model, result.version, result.engine) == ("mars", "2", "mirror")
    assert tuple(joint.name for joint in result.pose.joints) == JOINTS
    np.testing.assert_array_equal(result.pose.array(), expected(models_root, FRAME.points))


def test_timing_names_every_stage(client: Client) -> None:
    timing_us = client.pose(FRAME.points).timing_us
    assert set(timing_us) == {"preprocess", "quantise", "queue", "engine", "postprocess", "total"}
    assert min(timing_us.values()) >= 0


def test_points_lists_and_features_give_the_same_pose(client: Client) -> None:
    pose = client.pose(FRAME.points).pose
    assert client.pose(FRAME.points.tolist()).pose == pose
    assert client.pose(FRAME.points.astype(np.float64)).pose == pose
    assert client.pose_features(feature_map(FRAME.points)).pose == pose


def test_batch_mixes_points_and_features(client: Client) -> None:
    other = sample_frames()[3]
    result = client.poses([FRAME.points, feature_map(other.points)])
    assert result.poses == (client.pose(FRAME.points).pose, client.pose(other.points).pose)
    assert result.model == "mars"


def test_batch_takes_a_stack_of_features(client: Client) -> None:
    maps = np.stack([feature_map(frame.points) for frame in sample_frames()[:3]])
    assert len(client.poses(maps).poses) == 3


def test_joint_is_found_by_name(client: Client) -> None:
    pose = client.pose(FRAME.points).pose
    head = pose["Head"]
    np.testing.assert_array_equal(pose.array()[3], [head.x_m, head.y_m, head.z_m])
    with pytest.raises(KeyError, match="no joint 'Tail'; the joints are SpineBase, SpineMid"):
        pose["Tail"]


def test_model_and_version_are_chosen(service: httpx.BaseTransport) -> None:
    with Client(transport=service, model="mars", version="1") as client:
        assert client.pose(FRAME.points).version == "1"


def test_unknown_model_is_not_found(service: httpx.BaseTransport) -> None:
    with Client(transport=service, model="venus") as client, pytest.raises(NotFound) as caught:
        client.pose(FRAME.points)
    assert caught.value.problem.status == 404
    assert caught.value.problem.type == "/problems/unknown-model"
    assert str(caught.value) == (
        "the service answered 404 Model not loaded: model must be one of mars, but is 'venus'"
    )


def test_models_are_listed(client: Client, models_root: Path) -> None:
    models = client.models()
    assert [(model.name, model.version) for model in models] == [("mars", "1"), ("mars", "2")]
    package = load_package(models_root / "mars" / "1")
    assert models[0].package_sha256 == package.sha256
    assert models[0].int8_bytes == package.model.int8_bytes
    assert models[0].parameters > 0
    assert models[0].raw["task"]["kind"] == "mars-pose"


def test_ready(client: Client) -> None:
    assert client.ready() is True


def test_service_without_models_is_not_ready() -> None:
    async def ready() -> bool:
        transport = httpx.ASGITransport(create_app(Settings()))
        async with AsyncClient(transport=transport) as client:
            return await client.ready()

    assert asyncio.run(ready()) is False


@pytest.mark.parametrize(
    "points",
    [np.zeros((4, 4)), np.zeros((0, 5)), [[0, 1, 2, 3, -4]], np.zeros((5000, 5))],
    ids=["four columns", "no points", "negative intensity", "too many"],
)
def test_what_can_be_sent_is_for_the_service_to_judge(client: Client, points: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.pose(points)
    assert caught.value.problem.status == 422
    assert caught.value.problem.detail


def test_too_many_frames(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="at most 16 frames, but hold 17"):
        client.poses([FRAME.points] * 17)


def test_large_body(client: Client) -> None:
    with pytest.raises(TooLarge, match="413 Body too large"):
        client.poses([np.full((64, 5), 1 / 3)] * 50)


def test_async_client_agrees_with_the_blocking_one(
    awaited_service: httpx.AsyncBaseTransport, client: Client
) -> None:
    async def ask() -> tuple[list[PoseResult], Any, Any, bool]:
        async with AsyncClient(transport=awaited_service) as other:
            poses = [other.pose(frame.points) for frame in sample_frames()[:4]]
            return (
                list(await asyncio.gather(*poses)),
                (await other.pose_features(feature_map(FRAME.points))).pose,
                await other.models(),
                await other.ready(),
            )

    results, features_pose, models, ready = asyncio.run(ask())
    assert [r.pose for r in results] == [client.pose(f.points).pose for f in sample_frames()[:4]]
    assert features_pose == client.pose(FRAME.points).pose
    assert models == client.models()
    assert ready


def test_async_batch(awaited_service: httpx.AsyncBaseTransport, client: Client) -> None:
    async def ask() -> Any:
        async with AsyncClient(transport=awaited_service) as other:
            return await other.poses([FRAME.points] * 2)

    assert asyncio.run(ask()).poses == (client.pose(FRAME.points).pose,) * 2
