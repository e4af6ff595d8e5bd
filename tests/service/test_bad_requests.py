"""Each way to send something wrong: which problem it gives, and that the service goes on."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from emamba_service.errors import PROBLEM_JSON

POINT = [0.1, 1.8, 0.3, 0.0, 30.0]
MAP = [[POINT] * 8] * 8


class Bad(NamedTuple):
    """A request, and the problem it must give."""

    status: int
    kind: str
    detail: str
    body: Any = None
    content: Any = None
    method: str = "POST"
    path: str = "/v1/pose"
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    members: dict[str, Any] = {}  # noqa: RUF012 - never changed


def points(*rows: Any) -> dict[str, Any]:
    return {"points": list(rows)}


def invalid(detail: str, body: Any, frame: int | None = 0) -> Bad:
    return Bad(422, "invalid-input", detail, body, members={"frame": frame})


def request(detail: str, body: Any, **members: Any) -> Bad:
    return Bad(422, "invalid-request", detail, body, members=members)


def not_json(detail: str, content: bytes, **members: Any) -> Bad:
    return Bad(400, "not-json", detail, content=content, members=members)


async def _too_much() -> Any:
    for _ in range(30):
        yield b" " * 10_000


KEYS = "points, features, frames, model, version"
ONE_OF = "points, features, frames"
FAR = "must lie within 100 m and 100 m/s, intensity within 1e6, but hold "
UNITS = "; are the units metres and m/s?"
LONG = "/v1/" + "x" * 60 + "…"
AT = "the body must be JSON, but the parser stops at line 1 column "
DEEP = b'{"points": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
TOO_LARGE = "the body must be at most 200000 bytes; send less at once"
HEADERS = "request line and headers must be at most 16384 bytes together"
MEDIA = "Content-Type must be application/json or application/octet-stream, but is "
ENCODING = "Content-Encoding must be absent or identity, but is 'gzip'; send the body as it is"

BAD = {
    "empty body": not_json("the body must be JSON, but is empty", b""),
    "not json": not_json(AT + "1", b"points"),
    "cut off": not_json(AT + "19", b'{"points": [[1, 2,'),
    "nan literal": not_json(AT + "14", b'{"points": [[NaN, 0, 0, 0, 0]]}'),
    "infinity literal": not_json(AT + "14", b'{"points": [[Infinity, 0, 0, 0, 0]]}'),
    "1e999": not_json(AT + "14", b'{"points": [[1e999, 0, 0, 0, 0]]}'),
    "single quotes": not_json(AT + "2", b"{'points': []}"),
    "trailing comma": not_json(AT + "14", b'{"points": [1,]}'),
    "two documents": not_json(AT + "3", b"{}{}"),
    "not utf-8": not_json("the body must be UTF-8, but is not at byte 2", b'{"\xff": 1}', offset=2),
    "utf-16": not_json("the body must be UTF-8, but is not at byte 0", '{"a":1}'.encode("utf-16")),
    "byte order mark": not_json(AT + "1", b"\xef\xbb\xbf{}"),
    "null bytes": not_json(AT + "1", b"\0" * 16),
    "nested deeply": not_json(AT + "1036", DEEP[:199_000]),
    "array": request("the body must be a JSON object, but is an array", []),
    "string": request("the body must be a JSON object, but is a string", "points"),
    "null": Bad(
        422, "invalid-request", "the body must be a JSON object, but is null", None, b"null"
    ),
    "empty object": request(f"the body must have exactly one of {ONE_OF}, but has none", {}),
    "points and features": request(
        f"the body must have exactly one of {ONE_OF}, but has points and features",
        {"points": [POINT], "features": MAP},
    ),
    "points and frames": request(
        f"the body must have exactly one of {ONE_OF}, but has points and frames",
        {"points": [POINT], "frames": []},
    ),
    "unknown key": request(
        f"the body's keys must be among {KEYS}, but one is 'pionts'", {"pionts": [POINT]}
    ),
    "model not text": request(
        "model must be a string, but is a number", {"points": [POINT], "model": 1}
    ),
    "version null": request(
        "version must be a string, but is null", {"points": [POINT], "version": None}
    ),
    "frames not an array": request(
        "frames must be an array of at least 1 frame, but is an object", {"frames": {}}
    ),
    "no frames": request(
        "frames must be an array of at least 1 frame, but is an empty one", {"frames": []}
    ),
    "frame not an object": request(
        "frame 1: must be an object, but is an array", {"frames": [points(POINT), [POINT]]}, frame=1
    ),
    "frame without input": request(
        "frame 0: must have exactly one of points, features, but has none",
        {"frames": [{}]},
        frame=0,
    ),
    "frame with both": request(
        "frame 0: must have exactly one of points, features, but has points and features",
        {"frames": [{"points": [POINT], "features": MAP}]},
        frame=0,
    ),
    "frame with other key": request(
        "frame 0: must have no other key, but one is 'model'",
        {"frames": [{"model": "mars", "points": [POINT]}]},
        frame=0,
    ),
    "points not an array": invalid(
        "frame 0: points must be an array, but is an object", {"points": {"x": 1}}
    ),
    "points null": invalid("frame 0: points must be an array, but is null", {"points": None}),
    "no points": invalid(
        "frame 0: points must hold at least 1 point, but the frame is empty", {"points": []}
    ),
    "flat points": invalid("frame 0: points[0] must be 5 numbers, but is a number", points(1, 2)),
    "point as object": invalid(
        "frame 0: points[1] must be 5 numbers, but is an object", points(POINT, {"x": 1})
    ),
    "four values": invalid(
        "frame 0: points[1] must be 5 numbers, but has 4 values", points(POINT, POINT[:4])
    ),
    "six values": invalid(
        "frame 0: points[0] must be 5 numbers, but has 6 values", points([*POINT, 1.0])
    ),
    "text number": invalid(
        "frame 0: points[0] must be 5 numbers, but holds a string at position 1",
        points([0, "1.8", 0, 0, 0]),
    ),
    "boolean": invalid(
        "frame 0: points[0] must be 5 numbers, but holds a boolean at position 4",
        points([0, 1, 0, 0, True]),
    ),
    "null number": invalid(
        "frame 0: points[0] must be 5 numbers, but holds null at position 0",
        points([None, 1, 0, 0, 1]),
    ),
    "nested number": invalid(
        "frame 0: points[0] must be 5 numbers, but holds an array at position 0",
        points([[0], 1, 0, 0, 1]),
    ),
    "millimetres": invalid(
        f"frame 0: points {FAR}1900{UNITS}", points(POINT, [100.0, 1900.0, 300.0, 0.0, 30.0])
    ),
    "Doppler in mm/s": invalid(f"frame 0: points {FAR}-180{UNITS}", points([0, 1.9, 0, -180, 30])),
    "intensity beyond a million": invalid(
        f"frame 0: points {FAR}2e+06{UNITS}", points([0, 1.9, 0, 0, 2e6])
    ),
    "beyond float32": invalid(f"frame 0: points {FAR}1e+39{UNITS}", points([1e39, 0, 0, 0, 0])),
    "long integer": invalid(f"frame 0: points {FAR}1e+200{UNITS}", points([10**200, 0, 0, 0, 0])),
    "negative intensity": invalid(
        "frame 0: points must have intensity >= 0, but hold a negative one",
        points([0, 1, 0, 0, -1]),
    ),
    "second frame wrong": invalid(
        "frame 1: points must have intensity >= 0, but hold a negative one",
        {"frames": [points(POINT), points([0, 1, 0, 0, -1])]},
        frame=1,
    ),
    "features not an array": invalid(
        "frame 0: features must be an array, but is a string", {"features": "map"}
    ),
    "seven rows": invalid(
        "frame 0: features must hold 8 arrays, but holds 7", {"features": MAP[:7]}
    ),
    "ragged columns": invalid(
        "frame 0: features[7] must hold 8 arrays, but holds 5",
        {"features": [*MAP[:7], [POINT] * 5]},
    ),
    "ragged channels": invalid(
        "frame 0: features[7][7] must be 5 numbers, but has 4 values",
        {"features": [*MAP[:7], [*[POINT] * 7, POINT[:4]]]},
    ),
    "flat features": invalid(
        "frame 0: features[0] must be an array, but is a number", {"features": [0.0] * 8}
    ),
    "features beyond float32": invalid(
        f"frame 1: features {FAR}-1e+300{UNITS}",
        {"frames": [points(POINT), {"features": [[[-1e300] * 4 + [1]] * 8] * 8}]},
        frame=1,
    ),
    "features in millimetres": invalid(
        f"frame 0: features {FAR}1900{UNITS}", {"features": [[[0, 1900, 0, 0, 30]] * 8] * 8}
    ),
    "features negative intensity": invalid(
        "frame 0: features must have intensity >= 0, but hold a negative one",
        {"features": [[[0, 0, 0, 0, -1]] * 8] * 8},
    ),
    "too many points": Bad(
        422,
        "too-many-points",
        "frame 0: points must hold at most 300 points, but hold 301",
        points(*[POINT] * 301),
        members={"frame": 0, "limit": 300},
    ),
    "too many frames": Bad(
        422,
        "too-many-frames",
        "frames must hold at most 8 frames, but hold 9; send several requests",
        {"frames": [points(POINT)] * 9},
        members={"limit": 8},
    ),
    "unknown model": Bad(
        404,
        "unknown-model",
        "model must be one of mars, but is 'venus'",
        points(POINT) | {"model": "venus"},
    ),
    "unknown version": Bad(
        404,
        "unknown-version",
        "version of mars must be one of 9, 10, but is '../9'",
        points(POINT) | {"version": "../9"},
    ),
    "unknown model's page": Bad(
        404,
        "unknown-model",
        "model must be one of mars, but is 'venus'",
        method="GET",
        path="/v1/models/venus",
    ),
    "no such route": Bad(
        404, "not-found", "there is no route /v1/poses; GET / lists the routes", path="/v1/poses"
    ),
    "trailing slash": Bad(
        404, "not-found", "there is no route /v1/pose/; GET / lists the routes", path="/v1/pose/"
    ),
    "long path": Bad(
        404,
        "not-found",
        f"there is no route {LONG}; GET / lists the routes",
        path="/v1/" + "x" * 9000,
    ),
    "long model": Bad(
        404,
        "unknown-model",
        f"model must be one of mars, but is '{'v' * 64}…'",
        points(POINT) | {"model": "v" * 9000},
    ),
    "long model's page": Bad(
        404,
        "unknown-model",
        f"model must be one of mars, but is '{'v' * 64}…'",
        method="GET",
        path="/v1/models/" + "v" * 9000,
    ),
    "long version": Bad(
        404,
        "unknown-version",
        f"version of mars must be one of 9, 10, but is '{'1' * 64}…'",
        points(POINT) | {"version": "1" * 65},
    ),
    "long key": request(
        f"the body's keys must be among {KEYS}, but one is '{'k' * 64}…'", {"k" * 9000: 1}
    ),
    "long content type": Bad(
        415,
        "unsupported-media-type",
        f"{MEDIA}'{'t' * 64}…'",
        content=b"{}",
        headers={"content-type": "t" * 9000},
    ),
    "wrong method": Bad(
        405, "method-not-allowed", "/v1/pose must be called with POST, not GET", method="GET"
    ),
    "wrong method on metrics": Bad(
        405,
        "method-not-allowed",
        "/metrics must be called with GET or HEAD, not DELETE",
        method="DELETE",
        path="/metrics",
    ),
    "declared too large": Bad(
        413, "body-too-large", TOO_LARGE, content=b" " * 200_001, members={"limit": 200_000}
    ),
    "streamed too large": Bad(
        413, "body-too-large", TOO_LARGE, content=_too_much, members={"limit": 200_000}
    ),
    "form": Bad(
        415,
        "unsupported-media-type",
        MEDIA + "'application/x-www-form-urlencoded'",
        content=b"points=1",
        headers={"content-type": "application/x-www-form-urlencoded"},
    ),
    "no content type": Bad(
        415, "unsupported-media-type", MEDIA + "absent", content=b"{}", headers={"content-type": ""}
    ),
    "gzip": Bad(
        415, "unsupported-encoding", ENCODING, content=b"{}", headers={"content-encoding": "gzip"}
    ),
    "long header": Bad(
        431,
        "headers-too-large",
        HEADERS,
        points(POINT),
        headers={"x": "y" * 17_000},
        members={"limit": 16384},
    ),
    "long query": Bad(
        431,
        "headers-too-large",
        HEADERS,
        method="GET",
        path="/?" + "y" * 17_000,
        members={"limit": 16384},
    ),
}


def send(service, bad: Bad):
    headers = {"content-type": "application/json", **bad.headers}
    if not headers["content-type"]:
        del headers["content-type"]
    content = bad.content() if callable(bad.content) else bad.content
    if content is None:
        content = json.dumps(bad.body).encode()
    return service.request(bad.method, bad.path, content=content, headers=headers)


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_request_gives_its_problem_and_the_service_goes_on(service, bad):
    answer = send(service, bad)
    problem = answer.json()
    assert answer.headers["content-type"] == PROBLEM_JSON
    assert problem["detail"] == bad.detail
    assert (answer.status_code, problem["status"]) == (bad.status, bad.status)
    assert problem["type"] == f"/problems/{bad.kind}"
    assert problem["title"]
    assert bad.members.items() <= problem.items()
    assert service.pose(points(POINT)).status_code == 200


def test_wrong_method_names_the_right_ones(service):
    assert service.get("/v1/pose").headers["allow"] == "POST"
    for path in ("/", "/metrics", "/v1/models/mars", "/openapi.json"):
        assert service.request("DELETE", path).headers["allow"] == "GET, HEAD"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["points", "features", "frames", "model", "version"]) | st.text(),
            inner,
            max_size=3,
        )
    ),
    max_leaves=20,
)
NUMBER = st.floats(allow_nan=False) | st.integers()
ALMOST = st.fixed_dictionaries({"points": st.lists(st.lists(NUMBER, min_size=4, max_size=6))})


@hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(body=JSON | ALMOST)
def test_random_json_is_answered_or_refused(service, body):
    answer = service.request(
        "POST",
        "/v1/pose",
        content=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code in (200, 400, 404, 422)
    refused = answer.headers["content-type"] == PROBLEM_JSON
    assert refused == (answer.status_code != 200)


@hypothesis_settings(max_examples=100, deadline=None, derandomize=True)
@given(body=st.binary(max_size=200))
def test_random_bytes_are_refused(service, body):
    headers = {"content-type": "application/json"}
    answer = service.request("POST", "/v1/pose", content=body, headers=headers)
    assert answer.status_code in (400, 422)
