"""What is put on the wire, and what cannot be."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emamba_client import AsyncClient, Client, ClientClosed, InvalidInput
from emamba_client._wire import pose_call, poses_call

FINITE = {"allow_nan": False, "allow_infinity": False}
POINTS32 = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 70), st.just(5)), elements=st.floats(width=32, **FINITE)
)
POINTS64 = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.just(5)), elements=st.floats(**FINITE)
)
MAPS = hnp.arrays(np.float32, (8, 8, 5), elements=st.floats(width=32, **FINITE))


@settings(max_examples=40, deadline=None)
@given(points=POINTS32 | POINTS64)
def test_points_survive_the_wire_bit_for_bit(points: np.ndarray) -> None:
    body = json.loads(pose_call("points", points, None, None).body or b"")
    assert list(body) == ["points"]
    back = np.array(body["points"]).astype(points.dtype)
    np.testing.assert_array_equal(back, points)
    assert np.array_equal(np.signbit(back), np.signbit(points))


@settings(max_examples=20, deadline=None)
@given(frames=st.lists(POINTS32 | MAPS, max_size=4), model=st.none() | st.text(max_size=5))
def test_batches_survive_the_wire(frames: list[np.ndarray], model: str | None) -> None:
    body = json.loads(poses_call(frames, model, None).body or b"")
    assert body.get("model") == model
    assert len(body["frames"]) == len(frames)
    for sent, frame in zip(body["frames"], frames, strict=True):
        key = "points" if frame.ndim == 2 else "features"
        assert list(sent) == [key]
        np.testing.assert_array_equal(np.array(sent[key], np.float32), frame)


def test_request_is_as_documented(ask: Any, answer: dict[str, Any]) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=answer)

    url = "http://radar.example:9/base/"
    ask(handler, "pose", [[1, 2, 3, 4, 5]], url=url, model="mars", version="7")
    assert (seen[0].method, str(seen[0].url)) == ("POST", "http://radar.example:9/base/v1/pose")
    assert seen[0].headers["content-type"] == "application/json"
    assert seen[0].headers["user-agent"].startswith("emamba-client/")
    assert json.loads(seen[0].content) == {
        "points": [[1, 2, 3, 4, 5]],
        "model": "mars",
        "version": "7",
    }


def test_timeouts_are_those_given(ask: Any, answer: dict[str, Any]) -> None:
    seen: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, json=answer)

    ask(handler, "pose", [[0] * 5])
    ask(handler, "pose", [[0] * 5], connect_timeout_s=1, read_timeout_s=2)
    assert seen == [
        {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0},
        {"connect": 1, "read": 2, "write": 2, "pool": 2},
    ]


def never(_: httpx.Request) -> httpx.Response:
    raise AssertionError("nothing must be sent")


@pytest.mark.parametrize(
    ("method", "value", "sentence"),
    [
        ("pose", [1, 2, 3], "points must be an array [n, 5], not an array of shape [3]"),
        (
            "pose",
            np.zeros((8, 8, 5)),
            "points must be an array [n, 5], not an array of shape [8, 8, 5]",
        ),
        (
            "pose_features",
            np.zeros((64, 5)),
            "features must be an array [8, 8, 5], not an array of shape [64, 5]",
        ),
        ("pose", [[0, 0, 0, 0, np.nan]], "points must hold finite numbers, not NaN or infinity"),
        ("pose", [[0, 0, 0, 0, np.inf]], "points must hold finite numbers, not NaN or infinity"),
        ("pose", [[1, 2], [3]], "points must be a rectangular array of numbers"),
        ("pose", [["a"] * 5], "points must hold real numbers, not <U1"),
        ("pose", [[1j] * 5], "points must hold real numbers, not complex128"),
        (
            "pose",
            [[0, 0, 0, 0, None]],
            "points must hold real numbers, but one is of type NoneType",
        ),
        (
            "pose",
            np.array([[1, 2, 3, 4, "5"]], dtype=object),
            "points must hold real numbers, but one is of type str",
        ),
        (
            "pose",
            np.array([[1, 2, 3, 4, True]], dtype=object),
            "points must hold real numbers, but one is of type bool",
        ),
        (
            "pose",
            np.array([[1, 2], [3]], dtype=object),
            "points must hold real numbers, but one is of type list",
        ),
        ("pose", [[0, 0, 0, 0, 10**400]], "points must hold numbers that a double can hold"),
        (
            "pose",
            np.array([[1, 2, 3, 4, Decimal("inf")]]),
            "points must hold finite numbers, not NaN or infinity",
        ),
        ("pose", [[True] * 5], "points must hold real numbers, not bool"),
        (
            "poses",
            [[[0] * 5], [[np.nan] * 5]],
            "frame 1 must hold finite numbers, not NaN or infinity",
        ),
        (
            "poses",
            [[0] * 5],
            "frame 0 must be points [n, 5] or features [8, 8, 5], not an array of shape [5]",
        ),
    ],
)
def test_what_cannot_be_sent(ask: Any, method: str, value: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        ask(never, method, value)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([[0.5, 1, 2, 3, 4]], dtype=object),
        np.array([[np.float32(0.5), np.int8(1), 2, Decimal(3), Fraction(8, 2)]], dtype=object),
    ],
)
def test_objects_that_are_numbers_are_sent_as_such(numbers: np.ndarray) -> None:
    body = json.loads(pose_call("points", numbers, None, None).body or b"")
    assert body == {"points": [[0.5, 1.0, 2.0, 3.0, 4.0]]}


@pytest.mark.parametrize("method", ["pose", "pose_features", "poses", "models", "ready"])
def test_closed_clients_say_so(method: str) -> None:
    sentence = "the client must be open to be asked, but is closed; make a new one"
    features = np.zeros((8, 8, 5))
    arguments = {"pose": [[[0] * 5]], "pose_features": [features], "poses": [[features]]}

    async def ask_closed() -> None:
        client = AsyncClient(transport=httpx.MockTransport(never))
        await client.close()
        await getattr(client, method)(*arguments.get(method, []))

    client = Client(transport=httpx.MockTransport(never))
    client.close()
    with pytest.raises(ClientClosed) as blocking:
        getattr(client, method)(*arguments.get(method, []))
    with pytest.raises(ClientClosed) as awaited:
        asyncio.run(ask_closed())
    assert (str(blocking.value), str(awaited.value)) == (sentence, sentence)


@pytest.mark.parametrize("name", ["connect_timeout_s", "read_timeout_s"])
@pytest.mark.parametrize("value", [-1, 0, float("nan"), float("inf"), None, "5"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_time_outs_that_are_none(kind: Any, value: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"_timeout_s must be") as caught:
        kind(**{name: value})
    assert str(caught.value) == f"{name} must be a finite number of seconds > 0, but is {value!r}"


@pytest.mark.parametrize("name", ["model", "version"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_names_that_are_none(kind: Any, name: str) -> None:
    with pytest.raises(ValueError, match=r"must be a string") as caught:
        kind(**{name: 1})
    assert str(caught.value) == f'{name} must be a string such as "1" or None, but is 1'


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://host", "http://", "http://h\x00", "http://h:x"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_addresses_that_are_none(kind: Any, url: str) -> None:
    with pytest.raises(ValueError, match=r"^url must be like http://127\.0\.0\.1:8000, not "):
        kind(url)


def test_token_goes_with_every_request(answer: dict[str, Any]) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization", "none"))
        return httpx.Response(200, json=answer if request.method == "POST" else {"ready": True})

    transport = httpx.MockTransport(handler)
    with Client(token="emt_secret", transport=transport) as client:
        client.pose([[0, 1, 2, 3, 4]])
        client.ready()
    with Client(transport=transport) as client:
        client.ready()
    assert seen == ["Bearer emt_secret", "Bearer emt_secret", "none"]


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "smörgås", 7])
def test_token_that_is_none_is_refused_and_not_repeated(token: Any) -> None:
    with pytest.raises(ValueError, match="token must be") as refused:
        Client(token=token)
    assert str(refused.value) == "token must be printable ASCII characters without spaces, or None"
