"""Poses in bytes: the same joints as in JSON, and what is no frame is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emamba.engines import MirrorEngine
from emamba.package import load_package
from emamba.tasks.mars import LIMITS, feature_map
from emamba_service.app import create_app
from emamba_service.errors import InvalidInputError, InvalidRequestError, TooManyFramesError
from emamba_service.protocols.pose import FRAME_BYTES, parse_octets

CASES = 10_000 if os.environ.get("EMAMBA_VERIFY") == "full" else 200
OCTETS = {"content-type": "application/octet-stream"}
JSON = {"content-type": "application/json"}
WHOLE = (
    "the body must be at least 1 frame of 1280 bytes, 8 x 8 x 5 little-endian float32, and nothing "
    "else, but is "
)


@pytest.fixture(scope="module")
def maps(points: list[list[float]]) -> np.ndarray:
    """Three frames' feature maps, little-endian."""
    return np.stack([feature_map(points[:count]) for count in (23, 9, 1)]).astype("<f4")


def post(service: Any, content: bytes, headers: dict[str, str], query: str = "") -> Any:
    return service.request("POST", f"/v1/pose{query}", content=content, headers=headers)


def joints_of(answer: Any) -> np.ndarray:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    return np.frombuffer(answer.content, "<f4").reshape(-1, 19, 3)


def poses_of(answer: Any) -> np.ndarray:
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    axes = ("x_m", "y_m", "z_m")
    poses = answer.json()["poses"]
    return np.array([[[one[axis] for axis in axes] for one in pose["joints"]] for pose in poses])


@pytest.mark.parametrize("version", ["9", "10"])
def test_joints_are_the_packages_as_float32(
    service: Any, maps: np.ndarray, models_dir: Path, version: str
) -> None:
    package = load_package(models_dir / "mars" / version)
    want = package.decode(MirrorEngine(package.model).run(package.encode(maps)))
    for count in (1, 3):
        answer = post(service, maps[:count].tobytes(), OCTETS, f"?model=mars&version={version}")
        assert len(answer.content) == count * 228
        np.testing.assert_array_equal(joints_of(answer), want[:count].astype("<f4"))


def test_headers_say_who_answered_and_how_long_it_took(service: Any, maps: np.ndarray) -> None:
    headers = post(service, maps.tobytes(), OCTETS).headers
    assert headers["emamba-model"] == "mars"
    assert headers["emamba-version"] == "10"
    assert headers["emamba-engine"] == "mirror"
    times = re.fullmatch(
        r"queue;dur=(\d+\.\d{3}), engine;dur=(\d+\.\d{3}), total;dur=(\d+\.\d{3})",
        headers["server-timing"],
    )
    assert times
    queue_ms, engine_ms, total_ms = map(float, times.groups())
    assert engine_ms > 0
    assert queue_ms + engine_ms <= total_ms + 0.001


def test_accept_chooses_the_form_of_the_answer(service: Any, maps: np.ndarray) -> None:
    octets = maps.tobytes()
    document = orjson.dumps({"frames": [{"features": map_.tolist()} for map_ in maps]})
    want = poses_of(post(service, document, JSON))
    for accept in ("*/*", "application/*", "application/json", "text/html, */*;q=0.1"):
        got = poses_of(post(service, document, JSON | {"accept": accept}))
        np.testing.assert_array_equal(got, want)
    for accept in ("application/octet-stream", "application/json;q=0.5, application/octet-stream"):
        got = joints_of(post(service, document, JSON | {"accept": accept}))
        np.testing.assert_array_equal(got, want.astype("<f4"))
    for accept in ("*/*", "application/octet-stream", "application/json, application/*"):
        got = joints_of(post(service, octets, OCTETS | {"accept": accept}))
        np.testing.assert_array_equal(got, want.astype("<f4"))
    for accept in ("application/json", "Application/JSON ; q=1", "application/json, */*;q=0"):
        got = poses_of(post(service, octets, OCTETS | {"accept": accept}))
        np.testing.assert_array_equal(got, want)


def test_a_large_body_is_answered_as_small_ones_are(settings: Any, calling: Any, maps: np.ndarray):
    many = np.concatenate([maps] * 60)
    document = {"frames": [{"features": map_.tolist()} for map_ in many]}
    body = orjson.dumps(document)
    assert len(body) > 128 * 1024
    with calling(create_app(settings(max_frames=256, max_body_bytes=4_000_000))) as service:
        want = poses_of(post(service, orjson.dumps({"frames": document["frames"][:3]}), JSON))
        got = poses_of(post(service, body, JSON))
        np.testing.assert_array_equal(got, np.concatenate([want] * 60))
        in_bytes = joints_of(post(service, many.tobytes(), OCTETS))
        np.testing.assert_array_equal(in_bytes, got.astype("<f4"))
        broken = post(service, body[:-1], JSON)
        assert broken.json()["type"] == "/problems/not-json"


BAD = {
    "nothing": (b"", "", 422, "invalid-request", f"{WHOLE}0 bytes"),
    "part of a frame": (bytes(1279), "", 422, "invalid-request", f"{WHOLE}1279 bytes"),
    "more than a frame": (bytes(1281), "", 422, "invalid-request", f"{WHOLE}1281 bytes"),
    "too many": (
        bytes(9 * 1280),
        "",
        422,
        "too-many-frames",
        "the body must hold at most 8 frames, but holds 9; send several requests",
    ),
    "nan": (
        bytes(1280) + np.full(320, np.nan, "<f4").tobytes(),
        "",
        422,
        "invalid-input",
        "frame 1: features must be finite numbers, but hold NaN or infinity",
    ),
    "millimetres": (
        np.full(320, 1900, "<f4").tobytes(),
        "",
        422,
        "invalid-input",
        "frame 0: features must lie within 100 m and 100 m/s, intensity within 1e6, but hold 1900; "
        "are the units metres and m/s?",
    ),
    "unknown model": (
        bytes(1280),
        "?model=venus",
        404,
        "unknown-model",
        "model must be one of mars, but is 'venus'",
    ),
    "unknown version": (
        bytes(1280),
        "?version=1",
        404,
        "unknown-version",
        "version of mars must be one of 9, 10, but is '1'",
    ),
    "unknown key": (
        bytes(1280),
        "?modle=mars",
        422,
        "invalid-request",
        "the query's keys must be among model, version, priority, timeout_us, but one is 'modle'",
    ),
    "key without a value": (
        bytes(1280),
        "?priority",
        422,
        "invalid-request",
        "the query must be at most 16 keys, each key=value, but is 'priority'",
    ),
    "priority 0": (
        bytes(1280),
        "?priority=0",
        422,
        "invalid-request",
        "priority must be an integer 1..9, but is '0'",
    ),
    "timeout in seconds": (
        bytes(1280),
        "?timeout_us=0.5",
        422,
        "invalid-request",
        "timeout_us must be an integer 1..3600000000, but is '0.5'",
    ),
}


@pytest.mark.parametrize(("content", "query", "status", "kind", "detail"), BAD.values(), ids=BAD)
def test_what_is_no_frame_is_refused(
    service: Any, content: bytes, query: str, status: int, kind: str, detail: str
) -> None:
    answer = post(service, content, OCTETS, query)
    assert answer.json()["detail"] == detail
    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")
    assert post(service, bytes(1280), OCTETS).status_code == 200


def test_json_bodies_name_their_model_themselves(service: Any) -> None:
    body = b'{"points": [[0, 1, 2, 0, 4]]}'
    assert post(service, body, JSON, "?priority=1&timeout_us=5000000").status_code == 200
    answer = post(service, body, JSON, "?model=mars")
    assert answer.status_code == 422
    assert answer.json()["detail"] == (
        "the query's keys must be among priority, timeout_us, but one is 'model'"
    )


def test_a_timeout_that_is_over_is_said(service: Any, maps: np.ndarray) -> None:
    answer = post(service, maps.tobytes(), OCTETS, "?timeout_us=1")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/request-timeout")
    assert answer.headers["retry-after"] == "1"


def test_an_answer_nobody_can_read_is_not_given(service: Any, maps: np.ndarray) -> None:
    for accept in ("text/html", "application/json;q=0, application/octet-stream;q=0.0", "json"):
        answer = post(service, maps.tobytes(), OCTETS | {"accept": accept})
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            f"Accept must allow application/json or application/octet-stream, but is {accept!r}"
        )


@hypothesis_settings(max_examples=CASES, deadline=None, derandomize=True)
@given(
    st.binary(max_size=3 * FRAME_BYTES)
    | hnp.arrays(np.dtype("<f4"), (2, 320)).map(lambda numbers: numbers.tobytes())
    | hnp.arrays(np.dtype("<f4"), (1, 320), elements=st.floats(0, 100, width=32)).map(
        lambda numbers: numbers.tobytes()
    )
)
def test_any_bytes_are_taken_as_they_are_or_refused(body: bytes) -> None:
    try:
        maps = parse_octets(body, 2)
    except (InvalidInputError, InvalidRequestError, TooManyFramesError):
        numbers = np.frombuffer(body[: len(body) // 4 * 4], "<f4").reshape(-1)
        whole = len(body) in {FRAME_BYTES, 2 * FRAME_BYTES}
        channels = numbers.reshape(-1, 5) if whole else None
        assert channels is None or not (
            (np.abs(channels) <= LIMITS).all() and (channels[:, 4] >= 0).all()
        )
    else:
        assert maps.dtype == np.float32
        assert maps.astype("<f4").tobytes() == body
