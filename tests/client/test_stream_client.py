"""Both streams before the real service, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect

from emamba_client import (
    AsyncPoseStream,
    BadResponse,
    Client,
    ClientClosed,
    ConnectionFailed,
    InvalidInput,
    InvalidRequest,
    NotFound,
    Overloaded,
    PoseStream,
    TimedOut,
    TooLarge,
    sample_frames,
)
from emamba_client._stream_wire import read_answer, read_hello
from service.test_live import Live, finish, start

MODELS = Path(__file__).parents[1] / "one_model"
FRAMES = sample_frames()[:20]


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    service = start(MODELS, max_streams=3, max_message_bytes=4096)
    yield service
    finish(service)


def test_answers_come_in_order_and_equal_those_of_requests(live):
    with PoseStream(live.url) as stream, Client(live.url) as client:
        assert (stream.hello.model, stream.hello.engine) == ("mars", "mirror")
        for frame in FRAMES:
            stream.send_points(frame.points)
        for number, frame in enumerate(FRAMES, 1):
            answer = stream.receive(10)
            assert answer.sequence == number
            np.testing.assert_array_equal(answer.joints, client.pose(frame.points).pose.array())
            assert answer.engine == "mirror"
            assert answer.timing_us is not None
            assert answer.timing_us["total"] > 0


def test_feature_maps_are_answered_in_single_precision(live):
    features = np.zeros((8, 8, 5), np.float32)
    with PoseStream(live.url) as stream, Client(live.url) as client:
        assert stream.send_features(features) == 1
        answer = stream.receive(10)
        expected = client.pose_features(features).pose.array().astype(np.float32)
        np.testing.assert_array_equal(answer.joints, expected)
        assert (answer.engine, answer.timing_us) == (None, None)


def test_frame_that_is_refused_has_a_problem_and_the_stream_goes_on(live):
    with PoseStream(live.url) as stream:
        stream.send_points([[500.0, 0, 0, 0, 1]])
        stream.send_points(FRAMES[0].points)
        refused = stream.receive(10)
        assert refused.joints is None
        assert refused.problem is not None
        assert refused.problem.detail.startswith("frame 1: points must lie within 100 m")
        assert stream.receive(10).joints is not None
        stream.send_features(np.full((8, 8, 5), 1e9))
        problem = stream.receive(10).problem
        assert problem is not None
        assert problem.status == 422


def test_what_cannot_be_sent_is_refused_here(live):
    with PoseStream(live.url) as stream:
        with pytest.raises(InvalidInput, match="points must be an array"):
            stream.send_points([1.0, 2.0])
        with pytest.raises(InvalidInput, match="features must have shape"):
            stream.send_features(np.zeros((4, 4, 5)))
        assert stream.send_points(FRAMES[0].points) == 1
        with pytest.raises(TimedOut, match=r"within 0\.05 s"):
            [stream.receive(0.05) for _ in range(2)]


def test_others_watch_points_and_labels(live):
    with PoseStream(live.url, publish="lab") as stream:
        url = live.url.replace("http", "ws") + "/v1/pose/watch/lab?points=true&labels=true"
        with connect(url) as viewer:
            viewer.recv(10)
            stream.send_points(FRAMES[0].points, FRAMES[0].labels)
            shown = json.loads(viewer.recv(10))
        np.testing.assert_array_equal(np.float32(shown["points"]), FRAMES[0].points)
        np.testing.assert_array_equal(shown["labels"], FRAMES[0].labels)


def test_closing_ends_the_iteration(live):
    stream = PoseStream(live.url)
    stream.send_points(FRAMES[0].points)
    came = []
    with stream:
        threading.Timer(0.5, stream.close).start()
        came += [answer.sequence for answer in stream]
    assert came == [1]
    with pytest.raises(ClientClosed):
        stream.send_points(FRAMES[0].points)


def test_handshakes_are_refused_with_the_service_s_problem(live):
    with pytest.raises(NotFound, match="model must be one of mars, but is 'venus'"):
        PoseStream(live.url, model="venus")
    with pytest.raises(InvalidRequest, match="publish must match"):
        PoseStream(live.url, publish="a b")
    others = [PoseStream(live.url) for _ in range(3)]
    with pytest.raises(Overloaded, match="all 3 streams are taken"):
        PoseStream(live.url)
    for stream in others:
        stream.close()


def test_service_that_is_not_there_is_told():
    with pytest.raises(ConnectionFailed, match=r"cannot connect to http://127\.0\.0\.1:9"):
        PoseStream("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="url must be like"):
        PoseStream("localhost")


def test_stream_that_the_service_ends_says_why(live):
    with PoseStream(live.url) as stream:
        stream.send_points(np.ones((300, 5)))
        with pytest.raises((TooLarge, ConnectionFailed)):
            stream.receive(10)


def test_stopping_service_is_told():
    live = start(MODELS)
    try:
        with PoseStream(live.url) as stream:
            live.process.send_signal(signal.SIGTERM)
            with pytest.raises(Overloaded, match="the service is stopping"):
                stream.receive(10)
    finally:
        finish(live)
    with pytest.raises(ConnectionFailed):
        PoseStream(live.url)


def test_killed_service_is_told():
    live = start(MODELS, engine_process="false")
    try:
        with PoseStream(live.url) as stream:
            live.process.kill()
            with pytest.raises(ConnectionFailed, match="broke"):
                stream.receive(10)
    finally:
        finish(live)


def test_async_stream_does_the_same(live):
    async def talk() -> list[np.ndarray]:
        async with AsyncPoseStream(live.url) as stream:
            assert stream.hello.model == "mars"
            for frame in FRAMES:
                await stream.send_points(frame.points)
            joints = []
            async for answer in stream:
                assert answer.joints is not None
                joints.append(answer.joints)
                if len(joints) == len(FRAMES):
                    await stream.close()
            await_map = AsyncPoseStream(live.url)
            with pytest.raises(ClientClosed, match="must be opened with `async with`"):
                await await_map.receive()
            return joints

    with Client(live.url) as client:
        expected = client.poses([frame.points for frame in FRAMES]).poses
    for one, pose in zip(asyncio.run(talk()), expected, strict=True):
        np.testing.assert_array_equal(one, pose.array())


def test_async_handshake_is_refused_too(live):
    async def ask() -> None:
        async with AsyncPoseStream(live.url, model="venus"):
            pass

    with pytest.raises(NotFound):
        asyncio.run(ask())


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        '{"sequence": 1}',
        '{"sequence": 1, "joints": [[1, 2, 3]], "engine": "native", "timing_us": {}}',
        b"",
        bytes(16),
        b"\3" + bytes(15) + bytes(100),
    ],
)
def test_other_messages_are_bad_responses(message):
    with pytest.raises(BadResponse):
        read_answer(message)


def test_other_hellos_are_bad_responses():
    with pytest.raises(BadResponse, match="the answer's window must be an integer"):
        read_hello('{"model": "mars", "version": "1", "engine": "native", "window": 1.5}')
