"""The command as a process: start, signals, and bytes that no HTTP client would send."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

CLOSED = "headers and body must arrive within 1 s; send the request again"

TOO_LARGE = "the body must be at most 100000 bytes; send less at once"


@dataclass
class Live:
    """A running service and the lines it greeted with."""

    process: subprocess.Popen[str]
    greeting: list[str]

    @property
    def url(self) -> str:
        return self.greeting[0].split()[-1]

    def connect(self) -> socket.socket:
        address = urlsplit(self.url)
        assert address.hostname is not None
        return socket.create_connection((address.hostname, address.port), timeout=10)

    def exchange(self, *parts: bytes) -> tuple[int, dict[str, object]]:
        """Status and problem for raw bytes; the service closes the connection."""
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
            answer = b""
            while chunk := connection.recv(65536):
                answer += chunk
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"content-type: application/problem+json" in head
        return int(head.split()[1]), json.loads(body)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and whole body of the next answer, in however many pieces it comes."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def start(models_dir: Path, read_timeout_s: float = 1.0, **changes: object) -> Live:
    options: dict[str, object] = {
        "--models": models_dir,
        "--engine": "mirror",  # opens wherever the tests run
        "--port": 0,
        "--read-timeout-s": read_timeout_s,
        "--max-body-bytes": 100_000,
        "--max-header-bytes": 8192,
        "--log-level": "warning",
    } | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    arguments = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-c", "from emamba_service.cli import main; main()", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    greeting = [process.stdout.readline().rstrip("\n")]
    while greeting[-1] and not greeting[-1].startswith("curl "):
        greeting.append(process.stdout.readline().rstrip("\n"))
    return Live(process, greeting)


def finish(live: Live) -> None:
    if live.process.poll() is None:
        live.process.kill()
    live.process.communicate()


@pytest.fixture(scope="module")
def live(models_dir) -> Iterator[Live]:
    service = start(models_dir)
    yield service
    finish(service)


@pytest.fixture(autouse=True)
def _answers_afterwards(live, points) -> Iterator[None]:
    yield
    if live.process.poll() is None:
        assert httpx.post(f"{live.url}/v1/pose", json={"points": points}).status_code == 200


def test_greeting_says_where_what_and_how(live):
    assert live.greeting[0].startswith("eMamba service ")
    assert live.greeting[1:3] == [
        "mars version 9, engine mirror: NumPy integer pipeline on this machine's CPU",
        "mars version 10, engine mirror: NumPy integer pipeline on this machine's CPU",
    ]
    curl, _silent, url, _h, header, _d, body = shlex.split(live.greeting[3])
    assert (curl, url) == ("curl", f"{live.url}/v1/pose")
    name, _, value = header.partition(": ")
    answer = httpx.post(url, headers={name: value}, content=body)
    assert len(answer.json()["poses"][0]["joints"]) == 19


def test_metrics_tell_no_times_of_creation(live, points):
    httpx.post(f"{live.url}/v1/pose", json={"points": points})
    text = httpx.get(f"{live.url}/metrics").text
    assert "emamba_frames_total{" in text
    assert "_created" not in text


def test_head_is_answered_without_a_body(live):
    with live.connect() as connection:
        connection.sendall(b"HEAD /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 13\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


def test_garbage_is_not_http(live):
    status, problem = live.exchange(bytes(range(256)))
    assert (status, problem["type"]) == (400, "/problems/invalid-http")
    assert problem["detail"] == (
        "the bytes received are not an HTTP/1.1 request; the connection is closed"
    )


def test_endless_header_is_refused(live):
    status, problem = live.exchange(b"GET / HTTP/1.1\r\nx: " + b"y" * 9000)
    assert status == 431
    assert problem["detail"] == "request line and headers must be at most 8192 bytes together"
    assert problem["limit"] == 8192


def test_slow_header_is_refused(live):
    status, problem = live.exchange(b"GET / HTTP/1.1\r\n")
    assert (status, problem["detail"]) == (408, CLOSED)


def test_slow_body_is_refused(live):
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    status, problem = live.exchange(head + b"content-length: 50\r\n\r\n", b'{"points"')
    assert (status, problem["detail"]) == (408, CLOSED)


def test_bodies_larger_than_a_head_and_pipelined_requests_are_answered(live, points):
    body = json.dumps({"frames": [{"points": points}] * 60}).encode()
    assert 40_000 < len(body) < 100_000
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    with live.connect() as connection:
        connection.sendall(request * 2 + b"GET /health/live HTTP/1.1\r\nhost:")
        connection.sendall(b" x\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.count(b'"joints"') == 120
    assert answer.endswith(b'{"live":true}')


def test_empty_lines_do_not_hold_a_connection(live):
    with live.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert read_answer(connection) == (200, b'{"live":true}')
        connection.sendall(b"\r\n")
        assert connection.recv(1) == b""


def test_silent_connection_is_closed(live):
    with live.connect() as connection:
        assert connection.recv(1) == b""


def test_endless_chunked_body_is_refused_then_cut(live):
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    chunk = b"%x\r\n%b\r\n" % (10_000, b" " * 10_000)
    with live.connect() as connection:
        connection.sendall(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 12)
        status, problem = read_answer(connection)
        assert (status, json.loads(problem)["detail"]) == (413, TOO_LARGE)
        with pytest.raises(ConnectionError):
            _send_for(10, connection, chunk)


def _send_for(seconds: float, connection: socket.socket, chunk: bytes) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        connection.sendall(chunk)
        time.sleep(0.05)


def test_client_that_goes_away_is_counted(live):
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with live.connect() as connection:
        connection.sendall(head + b"content-length: 50\r\n\r\n" + b'{"points"')
    deadline = time.monotonic() + 10
    while 'kind="client-gone"' not in httpx.get(f"{live.url}/metrics").text:
        assert time.monotonic() < deadline


def test_large_body_is_refused_before_it_is_sent(live):
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with live.connect() as connection:
        connection.sendall(head + b"expect: 100-continue\r\ncontent-length: 100001\r\n\r\n")
        status, problem = read_answer(connection)
        assert (status, json.loads(problem)["detail"]) == (413, TOO_LARGE)


def _wait_until_closed(service: Live) -> None:
    """Return once the service takes no more connections."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            service.connect().close()
        except ConnectionError:
            return
        time.sleep(0.01)
    raise AssertionError("the service still takes connections")


def test_open_request_is_answered_after_sigterm(models_dir):
    service = start(models_dir, read_timeout_s=20)
    body = b'{"points": [[0, 1.8, 0, 0, 30]]}'
    head = b"POST /v1/pose HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    waiting = b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
    try:
        with service.connect() as connection:
            connection.sendall(head + waiting)
            # Sent once the route asks for the body: from here on the request is open.
            assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
            service.process.send_signal(signal.SIGTERM)
            _wait_until_closed(service)
            connection.sendall(body)
            status, answer = read_answer(connection)
        assert (status, len(json.loads(answer)["poses"])) == (200, 1)
        assert service.process.wait(10) == 0
    finally:
        finish(service)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_process_with_0(models_dir, number):
    service = start(models_dir)
    try:
        ready = httpx.get(f"{service.url}/health/ready")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert service.stop(number) == 0
        assert service.process.stderr is not None
        assert service.process.stderr.read() == ""
    finally:
        finish(service)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_crash_of_the_engine_is_a_503_and_the_service_goes_on(models_dir, points, number):
    live = start(models_dir)
    try:
        body = {"points": points}
        before = httpx.post(f"{live.url}/v1/pose", json=body).json()
        (engine,) = children(live.process.pid)
        os.kill(engine, number)
        deadline = time.monotonic() + 30
        seen = set()
        while True:
            answer = httpx.post(f"{live.url}/v1/pose", json=body)
            seen.add(answer.status_code)
            if answer.status_code == 200 and children(live.process.pid) not in ([], [engine]):
                break
            if answer.status_code == 503:
                assert answer.json()["type"] == "/problems/engine-unavailable"
                assert answer.headers["retry-after"] == "1"
                assert "the engine's process " in answer.json()["detail"]
                assert answer.json()["detail"].endswith("is being started anew; try again")
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert seen <= {200, 503}
        assert answer.json()["poses"] == before["poses"]
        assert httpx.get(f"{live.url}/health/ready").status_code == 200
        assert "emamba_engine_restarts_total 1.0" in httpx.get(f"{live.url}/metrics").text
        assert live.stop(signal.SIGTERM) == 0
    finally:
        finish(live)


def test_connections_beyond_the_limit_are_refused_and_room_is_made_again(models_dir, points):
    live = start(models_dir, max_connections=2)
    try:
        held = [live.connect(), live.connect()]
        for connection in held:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answer(connection)[0] == 200
        status, problem = live.exchange(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (status, problem["detail"]) == (
            503,
            "all 2 connections are taken; try again after 1 s",
        )
        for connection in held:
            connection.close()
        deadline = time.monotonic() + 10
        while httpx.get(f"{live.url}/health/live").status_code != 200:
            assert time.monotonic() < deadline
        text = httpx.get(f"{live.url}/metrics").text
        assert 'emamba_errors_total{kind="too-many-connections"}' in text
        assert "emamba_connections 1.0" in text
    finally:
        finish(live)
