"""What the answers mean: results, problems, and what is no answer at all."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from emamba_client import (
    BadResponse,
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    Overloaded,
    Problem,
    RetryPolicy,
    ServerFault,
    ServiceError,
    TimedOut,
    TooLarge,
)

POINTS = [[0.0, 1.0, 2.0, 3.0, 4.0]]
ONCE = RetryPolicy(attempts=1)


def answering(*args: Any, **kwargs: Any) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(*args, **kwargs)


def failing(error: type[httpx.RequestError]) -> Callable[[httpx.Request], httpx.Response]:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error("broken", request=request)

    return handler


def caught_from(ask: Any, handler: Any, method: str = "pose", *args: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        ask(handler, method, *(args or (POINTS,)), retry=ONCE)
    return caught.value


def test_result_holds_the_answer(ask: Any, answer: dict[str, Any]) -> None:
    result = ask(answering(200, json=answer), "pose", POINTS)
    assert (result.model, result.version, result.engine) == ("mars", "1", "mirror")
    assert result.timing_us["total"] == 10.5
    assert result.pose.array().tolist() == [[0.0, j, 0.5] for j in range(19)]
    assert result.raw == answer


def test_stages_of_the_engine_are_apart(ask: Any, answer: dict[str, Any]) -> None:
    assert ask(answering(200, json=answer), "pose", POINTS).engine_stages_us == {}
    stages = {"pack": 61, "kernel": 4.5}
    told = put(answer, ["timing_us", "engine_stages"], stages)
    result = ask(answering(200, json=told), "pose", POINTS)
    assert result.engine_stages_us == stages
    assert list(result.timing_us) == [
        "preprocess",
        "quantise",
        "queue",
        "engine",
        "postprocess",
        "total",
    ]
    assert result.raw == told


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (404, NotFound),
        (405, InvalidRequest),
        (408, InvalidRequest),
        (413, TooLarge),
        (415, InvalidRequest),
        (422, InvalidRequest),
        (429, Overloaded),
        (431, InvalidRequest),
        (500, ServerFault),
        (502, ServerFault),
        (503, Overloaded),
        (504, ServerFault),
    ],
)
def test_problems_become_errors(ask: Any, status: int, kind: type[ServiceError]) -> None:
    problem = {"type": "/problems/x", "title": "Wrong", "status": status, "detail": "it must be y"}
    error = caught_from(ask, answering(status, json=problem))
    assert type(error) is kind
    assert isinstance(error, ServiceError)
    assert error.problem == Problem(status, "/problems/x", "Wrong", "it must be y")
    assert str(error) == f"the service answered {status} Wrong: it must be y"


@pytest.mark.parametrize(
    "content", [b"<html>", b"", b"[1]", b'{"title": 3}', b"\xff", b"[" * 100000]
)
def test_an_error_without_a_problem_has_its_status(ask: Any, content: bytes) -> None:
    error = caught_from(ask, answering(502, content=content))
    assert isinstance(error, ServerFault)
    assert error.problem == Problem(502, "about:blank", "Bad Gateway", "")
    assert str(error) == "the service answered 502 Bad Gateway"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "9" * 10}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:05 GMT"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2015 07:28:05 GMT",
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            5.0,
        ),
        (
            {
                "retry-after": "Wed, 21 Oct 2015 07:28:00 GMT",
                "date": "Wed, 21 Oct 2015 07:28:05 GMT",
            },
            0.0,
        ),
    ],
)
def test_retry_after(ask: Any, headers: dict[str, str], seconds: float | None) -> None:
    error = caught_from(ask, answering(503, headers=headers))
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == seconds


@pytest.mark.parametrize(
    ("failure", "kind", "sentence"),
    [
        (httpx.ConnectError, ConnectionFailed, "cannot connect to http://127.0.0.1:8000 (broken)"),
        (
            httpx.ConnectTimeout,
            ConnectionFailed,
            "cannot connect to http://127.0.0.1:8000 in time (broken)",
        ),
        (
            httpx.RemoteProtocolError,
            ConnectionFailed,
            "the connection to http://127.0.0.1:8000 broke before an answer (broken)",
        ),
        (
            httpx.ReadError,
            ConnectionFailed,
            "the connection to http://127.0.0.1:8000 broke before an answer (broken)",
        ),
        (httpx.ReadTimeout, TimedOut, "no answer from http://127.0.0.1:8000 in time (broken)"),
        (httpx.WriteTimeout, TimedOut, "no answer from http://127.0.0.1:8000 in time (broken)"),
        (httpx.PoolTimeout, TimedOut, "no answer from http://127.0.0.1:8000 in time (broken)"),
        (
            httpx.DecodingError,
            BadResponse,
            "the answer of http://127.0.0.1:8000 cannot be decoded (broken)",
        ),
    ],
)
def test_network_failures(
    ask: Any, failure: type[httpx.RequestError], kind: type[ClientError], sentence: str
) -> None:
    error = caught_from(ask, failing(failure))
    assert type(error) is kind
    assert str(error) == sentence
    assert type(error.__cause__) is failure


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "the answer must be JSON, but cannot be read as such"),
        (b"", "the answer must be JSON, but cannot be read as such"),
        (b"[" * 100000, "the answer must be JSON, but cannot be read as such"),
        (b"[]", "the answer must be a JSON object, but is an array"),
        (b"null", "the answer must be a JSON object, but is null or missing"),
        (b"{}", "the answer's timing_us must be an object, but is null or missing"),
    ],
)
def test_answers_that_are_no_result(ask: Any, content: bytes, sentence: str) -> None:
    error = caught_from(ask, answering(200, content=content))
    assert type(error) is BadResponse
    assert str(error) == sentence


def test_redirect_is_no_answer(ask: Any) -> None:
    error = caught_from(ask, answering(302, headers={"location": "/"}))
    assert str(error) == "the answer must be a result or an error, not 302 Found"


def put(document: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    changed: Any = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["model"], 3, "the answer's model must be a string, but is an integer"),
        (["version"], None, "the answer's version must be a string, but is null or missing"),
        (["engine"], ["x"], "the answer's engine must be a string, but is an array"),
        (["timing_us"], [], "the answer's timing_us must be an object, but is an array"),
        (
            ["timing_us", "total"],
            "1",
            "the answer's timing_us.total must be a finite number, but is a string",
        ),
        (
            ["timing_us", "engine_stages"],
            3,
            "the answer's timing_us.engine_stages must be an object, but is an integer",
        ),
        (
            ["timing_us", "engine_stages"],
            {"pack": None},
            "the answer's timing_us.engine_stages.pack must be a finite number, "
            "but is null or missing",
        ),
        (["poses"], {}, "the answer's poses must be an array, but is an object"),
        (["poses"], [], "the answer's poses must be 1, but are 0"),
        (
            ["poses", 0],
            1.5,
            "the answer's poses[0].joints must be an array, but is null or missing",
        ),
        (
            ["poses", 0, "joints"],
            [],
            "the answer's poses[0].joints must be the 19 joints in order",
        ),
        (
            ["poses", 0, "joints", 2, "name"],
            "Tail",
            "the answer's poses[0].joints must be the 19 joints in order",
        ),
        (
            ["poses", 0, "joints", 2],
            "Neck",
            "the answer's poses[0].joints[2].x_m must be a finite number, but is null or missing",
        ),
        (
            ["poses", 0, "joints", 2, "z_m"],
            10**400,
            "the answer's poses[0].joints[2].z_m must be a finite number, but is an integer",
        ),
        (
            ["poses", 0, "joints", 2, "z_m"],
            True,
            "the answer's poses[0].joints[2].z_m must be a finite number, but is a boolean",
        ),
    ],
)
def test_answers_not_as_documented(
    ask: Any, answer: dict[str, Any], path: list[Any], value: Any, sentence: str
) -> None:
    error = caught_from(ask, answering(200, json=put(answer, path, value)))
    assert type(error) is BadResponse
    assert str(error) == sentence


def test_nan_in_an_answer_is_refused(ask: Any, answer: dict[str, Any]) -> None:
    text = json.dumps(put(answer, ["poses", 0, "joints", 0, "x_m"], float("nan")))
    error = caught_from(ask, answering(200, content=text.encode()))
    assert str(error) == "the answer's poses[0].joints[0].x_m must be a finite number, but is nan"


def test_batch_answers_every_frame(ask: Any, answer: dict[str, Any]) -> None:
    error = caught_from(ask, answering(200, json=answer), "poses", [POINTS, POINTS])
    assert str(error) == "the answer's poses must be 2, but are 1"


def test_model_list_not_as_documented(ask: Any) -> None:
    entry = {"name": "m", "version": "1", "engine": "e", "package_sha256": "0", "parameters": 1.5}
    with pytest.raises(BadResponse) as caught:
        ask(answering(200, json={"models": [entry]}), "models")
    assert str(caught.value) == ("the answer's models[0].parameters must be an integer, but is 1.5")


def test_readiness(ask: Any) -> None:
    assert ask(answering(200, json={"ready": True}), "ready") is True
    assert ask(answering(503, headers={"retry-after": "1"}), "ready") is False
    with pytest.raises(NotFound):
        ask(answering(404), "ready")
