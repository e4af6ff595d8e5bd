"""Streams of a live service, over real sockets."""

from __future__ import annotations

import asyncio
import json
import signal
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from emamba_service.app import create_app
from emamba_service.auth import new_token, write_tokens
from service.test_live import Live, finish, start

HEAD = struct.Struct("<B7xQ")


@pytest.fixture(scope="module")
def live(models_dir) -> Iterator[Live]:
    service = start(
        models_dir,
        max_streams=4,
        max_viewers=2,
        max_message_bytes=4096,
        stream_window=8,
        stream_resume_s=2,
    )
    yield service
    finish(service)


class Stream:
    """A client's end of a stream."""

    def __init__(self, live: Live, query: str = "", path: str = "/v1/pose/stream") -> None:
        url = live.url.replace("http", "ws") + path
        self.socket: ClientConnection = connect(f"{url}?{query}", compression=None)
        self.hello: dict[str, Any] = json.loads(self.socket.recv(10))

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send_map(self, sequence: int, features: np.ndarray) -> None:
        self.socket.send(HEAD.pack(1, sequence) + features.astype("<f4").tobytes())

    def send(self, **document: Any) -> None:
        self.socket.send(json.dumps(document))

    def next(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.socket.recv(10))
        return document

    def next_joints(self) -> tuple[int, np.ndarray]:
        message = self.socket.recv(10)
        assert isinstance(message, bytes)
        kind, sequence = HEAD.unpack_from(message)
        assert kind == 3
        return sequence, np.frombuffer(message, "<f4", offset=16)

    def closed(self) -> tuple[int, str]:
        """Code and reason of the close that comes."""
        while True:
            try:
                self.socket.recv(20)
            except ConnectionClosed as closed:
                last = closed.rcvd
                break
        assert last is not None
        return last.code, last.reason


def maps(count: int) -> np.ndarray:
    return np.random.default_rng(1).random((count, 8, 8, 5), np.float32)


def joints_of(live: Live, features: np.ndarray) -> np.ndarray:
    answer = httpx.post(
        f"{live.url}/v1/pose",
        content=features.astype("<f4").tobytes(),
        headers={"content-type": "application/octet-stream"},
    )
    return np.frombuffer(answer.content, "<f4").reshape(len(features), -1)


def refusal(live: Live, query: str, path: str = "/v1/pose/stream") -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        Stream(live, query, path)
    response = refused.value.response
    return response.status_code, json.loads(response.body)["detail"]


def test_joints_come_in_order_and_equal_the_routes_answers(live):
    frames = maps(8)
    with Stream(live) as stream:
        assert stream.hello == {
            "model": "mars",
            "version": "10",
            "engine": "mirror",
            "window": 8,
            "received": 0,
        }
        for sequence, features in enumerate(frames, 1):
            stream.send_map(sequence, features)
        answers = [stream.next_joints() for _ in frames]
    assert [sequence for sequence, _ in answers] == list(range(1, 9))
    np.testing.assert_array_equal([joints for _, joints in answers], joints_of(live, frames))


def test_more_frames_than_the_window_wait_for_answers_and_none_is_lost(live):
    frames = maps(70)
    with Stream(live) as stream:
        sending = threading.Thread(
            target=lambda: [stream.send_map(n, f) for n, f in enumerate(frames, 1)]
        )
        sending.start()
        answers = [stream.next_joints() for _ in frames]
        sending.join()
    assert [sequence for sequence, _ in answers] == list(range(1, 71))
    np.testing.assert_array_equal([joints for _, joints in answers], joints_of(live, frames))


def test_text_is_answered_with_text_and_a_bad_frame_keeps_its_place(live, points):
    expected = httpx.post(f"{live.url}/v1/pose", json={"points": points}).json()["poses"][0]
    with Stream(live, "version=10") as stream:
        stream.send(sequence=1, points=points)
        stream.send(sequence=2, points=[])
        stream.send(sequence=5, points=points)
        first, second, third = stream.next(), stream.next(), stream.next()
    assert first["joints"] == [[j["x_m"], j["y_m"], j["z_m"]] for j in expected["joints"]]
    assert (second["sequence"], second["problem"]["type"]) == (2, "/problems/invalid-input")
    assert second["problem"]["detail"] == (
        "frame 2: points must hold at least 1 point, but the frame is empty"
    )
    assert (third["sequence"], third["joints"]) == (5, first["joints"])


@pytest.mark.parametrize(
    ("message", "code", "reason"),
    [
        (b"garbage", 1008, "a message must begin with a kind, seven zeros and a sequence number"),
        ("{}", 1008, "a sequence number must be an integer 0..9007199254740991"),
        (HEAD.pack(1, 0) + bytes(1280), 1008, "sequence numbers must rise, but 0 follows 0"),
        (HEAD.pack(2, 1), 1008, "an acknowledgement must be of a resumable stream"),
        (bytes(5000), 1009, ""),
    ],
)
def test_what_is_no_message_ends_the_stream_with_its_reason(live, message, code, reason):
    with Stream(live) as stream:
        stream.socket.send(message)
        came = stream.closed()
    assert came[0] == code
    assert came[1].startswith(reason)


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("model=venus", 404, "model must be one of mars, but is 'venus'"),
        ("colour=red", 422, "the query's keys must be among acknowledged, model, publish, "),
        ("when_full=wait", 422, "when_full must be one of block, drop, but is 'wait'"),
        ("publish=a%20b", 422, "publish must match "),
        ("session=unknown", 422, "session must be that of a resumable stream of yours "),
        ("model=mars&model=mars", 422, "the query must have each key once"),
    ],
)
def test_handshake_is_refused_with_a_problem(live, query, status, detail):
    came = refusal(live, query)
    assert came[0] == status
    assert came[1].startswith(detail)


@pytest.mark.parametrize("path", ["/v1/pose/stream", "/v1/pose/watch/any"])
def test_page_of_another_site_opens_no_stream(live, path):
    url = live.url.replace("http", "ws") + path
    with pytest.raises(InvalidStatus) as refused:
        connect(url, origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["detail"] == (
        "a page must come from this service to open its streams, "
        "but comes from 'https://elsewhere.example'"
    )
    if path.endswith("stream"):
        connect(url, origin=live.url).close()


def test_lost_connection_is_resumed_without_losing_or_repeating(live):
    frames = maps(6)
    stream = Stream(live, "resumable=true")
    session = stream.hello["session"]
    assert stream.socket.response is not None
    assert stream.socket.response.headers["emamba-session"] == session
    for sequence, features in enumerate(frames, 1):
        stream.send_map(sequence, features)
    told = dict([stream.next_joints(), stream.next_joints(), stream.next_joints()])
    # The network goes away in the middle of everything.
    stream.socket.socket.close()
    with Stream(live, f"session={session}&acknowledged=2") as again:
        assert again.hello["received"] == 6
        answers = [again.next_joints() for _ in range(4)]
        assert [sequence for sequence, _ in answers] == [3, 4, 5, 6]
        again.socket.send(HEAD.pack(2, 6))
        again.send_map(7, frames[0])
        assert again.next_joints()[0] == 7
    np.testing.assert_array_equal(told[3], answers[0][1])
    np.testing.assert_array_equal([j for _, j in answers], joints_of(live, frames[2:]))


def test_resuming_beyond_what_was_received_or_with_other_wishes_is_refused(live):
    with Stream(live, "resumable=true") as stream:
        session = stream.hello["session"]
        assert refusal(live, f"session={session}&acknowledged=9")[1].startswith(
            "an acknowledgement must be of a resumable stream and lie within 0..0, but is 9"
        )
        assert refusal(live, f"session={session}&model=mars")[1] == (
            "a session must be resumed with session and acknowledged alone, but with model"
        )


def test_places_for_streams_are_limited_and_come_back(live):
    deadline = time.monotonic() + 20
    held: list[Stream] = []
    while len(held) < 4:
        # Those of tests before are still resumable.
        assert time.monotonic() < deadline
        try:
            held.append(Stream(live))
        except InvalidStatus:
            time.sleep(0.1)
    status, detail = refusal(live, "")
    assert (status, detail) == (503, "all 4 streams are taken; try again after 1 s")
    for stream in held:
        stream.socket.close()
    while True:
        assert time.monotonic() < deadline
        try:
            Stream(live).socket.close()
            break
        except InvalidStatus:
            time.sleep(0.05)


def test_viewers_see_what_is_published(live, points):
    with Stream(live, "publish=lab") as source:
        listed = httpx.get(f"{live.url}/v1/streams").json()["streams"]
        assert listed == [{"name": "lab", "viewers": 0, "model": "mars", "version": "10"}]
        assert refusal(live, "publish=lab")[1] == (
            "publish must be a free name, but 'lab' is published"
        )
        watch = "/v1/pose/watch/lab"
        with Stream(live, "points=true", watch) as full, Stream(live, "", watch) as plain:
            assert full.hello == {"channel": "lab", "model": "mars", "version": "10"}
            status, detail = refusal(live, "", watch)
            assert (status, detail[:21]) == (503, "all 2 places for view")
            source.send(sequence=1, points=points)
            joints = source.next()["joints"]
            assert full.next() == {"sequence": 1, "joints": joints, "points": points}
            assert plain.next() == {"sequence": 1, "joints": joints}
            # A viewer that reads nothing slows nobody.
            for sequence in range(2, 60):
                source.send(sequence=sequence, points=points)
                assert source.next()["sequence"] == sequence
            source.socket.close()
            code, reason = plain.closed()
        assert (code, reason) == (1001, "the stream has ended")
    assert refusal(live, "", watch)[1] == "the stream must be one that is published: none"


def test_answers_tell_who_computed_them_and_how_long_it_took_if_asked(live, points):
    labels = [[0.0, 2.0, 1.0]] * 19
    watch = "/v1/pose/watch/timed"
    with (
        Stream(live, "publish=timed&timing=true") as source,
        Stream(live, "timing=true&labels=true", watch) as viewer,
    ):
        source.send(sequence=1, points=points, labels=labels)
        answer, shown = source.next(), viewer.next()
        assert answer["engine"] == "mirror"
        assert list(answer["timing_us"]) == [
            *("preprocess", "queue", "quantise", "engine", "postprocess", "total")
        ]
        assert shown == answer | {"labels": labels}
    assert refusal(live, "timing=yes")[1] == "timing must be one of true, false, but is 'yes'"


def test_idle_stream_lets_the_event_loop_rest(settings, calling):
    app = create_app(settings())

    async def ready_callbacks() -> int:
        """Of the event loop, some time after a stream has begun that nobody uses."""
        sent: list[dict[str, Any]] = []
        messages = iter([{"type": "websocket.connect"}])

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            return await asyncio.get_running_loop().create_future()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/v1/pose/stream", "query_string": b""}
        scope |= {"headers": [], "client": ("127.0.0.1", 1), "subprotocols": [], "extensions": {}}
        stream = asyncio.create_task(app(scope, receive, send))
        loop = asyncio.get_running_loop()
        while len(sent) < 2:
            await asyncio.sleep(0.01)
        ready = loop.create_future()
        loop.call_later(0.1, lambda: ready.set_result(len(loop._ready)))
        count = await ready
        stream.cancel()
        await asyncio.wait({stream})
        return count

    with calling(app) as service:
        assert service.portal.call(ready_callbacks) == 0


def test_page_sends_its_token_as_a_subprotocol(models_dir, tmp_path):
    secret, token = new_token("page", ("infer",))
    write_tokens(tmp_path / "tokens.json", [token])
    live = start(models_dir, tokens=tmp_path / "tokens.json")
    url = live.url.replace("http", "ws") + "/v1/pose/stream"
    try:
        with connect(url, subprotocols=["emamba.v1", f"emamba.token.{secret}"]) as stream:
            assert stream.subprotocol == "emamba.v1"
            assert json.loads(stream.recv(10))["model"] == "mars"
        with pytest.raises(InvalidStatus) as refused:
            connect(url, subprotocols=["emamba.v1", "emamba.token.emt_unknown"])
        assert refused.value.response.status_code == 401
    finally:
        finish(live)


def test_metrics_tell_of_streams(live):
    text = httpx.get(f"{live.url}/metrics").text
    assert 'emamba_stream_frames_total{outcome="answered"}' in text
    assert 'emamba_stream_frames_total{outcome="refused"} ' in text


def test_stopping_service_answers_what_it_has_and_says_come_back(models_dir):
    live = start(models_dir)
    try:
        frames = maps(20)
        with Stream(live, "publish=a") as stream, Stream(live, "", "/v1/pose/watch/a") as viewer:
            for sequence, features in enumerate(frames, 1):
                stream.send_map(sequence, features)
            assert stream.next_joints()[0] == 1
            live.process.send_signal(signal.SIGTERM)
            code, reason = stream.closed()
            assert (code, reason) == (1012, "the service is stopping; connect to another instance")
            assert viewer.closed()[0] in {1001, 1012}
        assert live.process.wait(20) == 0
    finally:
        finish(live)
