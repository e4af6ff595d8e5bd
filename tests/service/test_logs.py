"""Log lines and what ties them to a request."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.sync.client import connect

from emamba_service.auth import new_token
from emamba_service.logs import (
    JsonFormatter,
    TextFormatter,
    audit,
    new_request_id,
    request_id,
    trace_ids,
    trace_parent,
)
from service.test_live import finish, start

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def in_a_request() -> Iterator[None]:
    tokens = request_id.set("r-1"), trace_parent.set(PARENT)
    yield
    request_id.reset(tokens[0])
    trace_parent.reset(tokens[1])


def formatted(message: str, *arguments: object, **extra: object) -> dict[str, object]:
    record = logging.getLogger("a").makeRecord(
        "a", logging.WARNING, "f", 1, message, arguments, None, extra=extra
    )
    line: dict[str, object] = json.loads(JsonFormatter().format(record))
    return line


def test_line_has_its_request_and_trace(in_a_request):
    line = formatted("it took %d us", 7, route="/v1/pose")
    time = str(line.pop("time"))
    assert time.endswith("Z")
    assert len(time) == len("2031-01-02T03:04:05.678Z")
    assert line == {
        "level": "warning",
        "logger": "a",
        "message": "it took 7 us",
        "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "span_id": "00f067aa0ba902b7",
        "route": "/v1/pose",
    }


def test_line_outside_a_request_has_none():
    assert set(formatted("hello")) == {"time", "level", "logger", "message"}


def test_traceback_is_a_member_and_no_line_of_its_own():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["traceback"].endswith("ValueError: first\nsecond")


def test_text_line_ends_with_its_request(in_a_request):
    record = logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": "hello"})
    assert TextFormatter().format(record).endswith(" INFO a: hello [r-1]")


def test_nobody_forges_a_line_of_text():
    forged = "/v1\n2031-01-02 03:04:05,678 INFO emamba_service.audit: action=load\x1b[2J"
    try:
        raise ValueError(forged)
    except ValueError:
        record = logging.makeLogRecord({"msg": forged, "exc_info": sys.exc_info()})
    first, *below = TextFormatter().format(record).split("\n")
    assert first.endswith(
        r"/v1\u000a2031-01-02 03:04:05,678 INFO emamba_service.audit: "
        r"action=load\u001b[2J"
    )
    assert all(line.startswith("  ") for line in below)
    assert "\x1b" not in "".join(below)


def test_value_of_an_audit_line_cannot_be_another_field(caplog):
    caplog.set_level("INFO", "emamba_service.audit")
    audit("load", "refused", client="ops", model='x outcome=done "y"')
    assert caplog.messages == [
        r'action=load outcome=refused client=ops model="x outcome=done \"y\""'
    ]
    assert caplog.records[0].model == 'x outcome=done "y"'


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()])
def test_token_in_a_line_is_cut(formatter):
    secret, _ = new_token("a", ("infer",))
    record = logging.makeLogRecord({"msg": f"GET /{secret}/x", "route": secret})
    line = formatter.format(record)
    assert secret not in line
    assert "GET /emt_.../x" in line


@pytest.mark.parametrize("value", ["half \udc80", 2**70, {1: object()}, float("nan")])
def test_anything_can_be_a_field(value):
    assert formatted("hello", strange=value)["message"] == "hello"


def test_field_does_not_hide_what_every_line_has():
    assert formatted("hello", level="none", time="never")["level"] == "warning"


@pytest.mark.parametrize("given_id", ["a", "A.b_c-9", "x" * 64])
def test_request_keeps_its_own_id(given_id):
    assert new_request_id(given_id) == given_id


@given(st.none() | st.text().filter(lambda text: not text.isascii() or not text.isalnum()))
def test_other_ids_are_replaced_by_new_ones(text):
    if text is None or not all(c.isascii() and (c.isalnum() or c in "._-") for c in text):
        assert new_request_id(text) != text
    assert new_request_id(None) != new_request_id(None)


@pytest.mark.parametrize(
    ("parent", "ids"),
    [
        (PARENT, ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")),
        (f"01{PARENT[2:]}-more", ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")),
        (f"{PARENT}-more", None),
        (f"ff{PARENT[2:]}", None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        (f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01", None),
        (PARENT.upper(), None),
        ("", None),
        (None, None),
    ],
)
def test_trace_parent_is_read_as_w3c_has_it(parent, ids):
    assert trace_ids(parent) == ids


@given(st.text())
def test_any_trace_parent_is_read_or_left(text):
    assert trace_ids(text) is None or len(text) >= 55


@pytest.mark.parametrize("path", ["/health/live", "/nope", "/v2/models/venus"])
def test_every_answer_has_the_requests_id(service, path):
    assert service.get(path, headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    strange = service.get(path, headers={"x-request-id": "no good"}).headers["x-request-id"]
    assert strange != "no good"


def test_service_logs_json_with_ids_and_without_secrets(models_dir, points):
    secret = f"emt_{'s' * 43}"
    live = start(models_dir, log_format="json", log_level="debug")
    try:
        headers = {
            "x-request-id": "r-7",
            "traceparent": PARENT,
            "authorization": f"Bearer {secret}",
        }
        answer = httpx.post(f"{live.url}/v1/pose", json={"points": points}, headers=headers)
        assert answer.headers["x-request-id"] == "r-7"
        live.process.terminate()
        _, logged = live.process.communicate(timeout=20)
    finally:
        finish(live)
    assert secret not in logged
    lines = [json.loads(line) for line in logged.splitlines()]
    (access,) = [line for line in lines if line["logger"] == "emamba_service.access"]
    assert access["message"] == "POST /v1/pose 200"
    assert access["duration_us"] > 0
    assert {name: access[name] for name in ("request_id", "trace_id", "route", "status")} == {
        "request_id": "r-7",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "route": "/v1/pose",
        "status": 200,
    }


def test_opened_stream_leaves_no_session_in_the_log(models_dir):
    live = start(models_dir, log_level="debug")
    try:
        url = live.url.replace("http", "ws") + "/v1/pose/stream?resumable=true"
        with connect(url) as stream:
            session = json.loads(stream.recv())["session"]
        with connect(f"{live.url.replace('http', 'ws')}/v1/pose/stream?session={session}") as again:
            again.recv()
        live.process.terminate()
        _, logged = live.process.communicate(timeout=20)
    finally:
        finish(live)
    assert len(session) >= 16
    assert session not in logged
