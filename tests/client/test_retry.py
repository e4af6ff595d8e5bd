"""When a request is sent again: the schedule, with time held still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from emamba_client import (
    ConnectionFailed,
    InvalidRequest,
    Overloaded,
    RetryPolicy,
    ServerFault,
    TimedOut,
)

POINTS = [[0.0, 1.0, 2.0, 3.0, 4.0]]
Outcome = type[httpx.RequestError] | httpx.Response


class Script:
    """Plays its outcomes in order, the last one for ever; counts the requests."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = outcomes
        self.requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        outcome = self._outcomes[min(self.requests, len(self._outcomes) - 1)]
        self.requests += 1
        if isinstance(outcome, httpx.Response):
            return outcome
        raise outcome("broken", request=request)


def busy(retry_after: str | None = "1", status: int = 503) -> httpx.Response:
    return httpx.Response(status, headers={"retry-after": retry_after} if retry_after else {})


@pytest.fixture
def good(answer: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=answer)


def test_a_good_answer_is_not_asked_twice(ask: Any, good: httpx.Response) -> None:
    script = Script(good)
    ask(script, "pose", POINTS)
    assert (script.requests, ask.time.slept) == (1, [])


@pytest.mark.parametrize(
    "failure",
    [httpx.ConnectError, httpx.ConnectTimeout, httpx.RemoteProtocolError, httpx.ReadError],
)
def test_lost_connections_are_tried_again(ask: Any, good: httpx.Response, failure: Any) -> None:
    script = Script(failure, failure, good)
    assert ask(script, "pose", POINTS).model == "mars"
    assert (script.requests, ask.time.slept) == (3, [0.1, 0.2])


def test_pauses_double_up_to_the_longest(ask: Any) -> None:
    script = Script(httpx.ConnectError)
    policy = RetryPolicy(attempts=7, total_s=60, first_delay_s=0.5, max_delay_s=3)
    with pytest.raises(ConnectionFailed):
        ask(script, "pose", POINTS, retry=policy)
    assert (script.requests, ask.time.slept) == (7, [0.5, 1.0, 2.0, 3.0, 3.0, 3.0])


def test_jitter_takes_away_up_to_half(ask: Any) -> None:
    draws = iter([0.0, 0.5, 0.25])
    with pytest.raises(ConnectionFailed):
        ask(Script(httpx.ConnectError), "pose", POINTS, jitter=lambda: next(draws))
    assert ask.time.slept == pytest.approx([0.05, 0.15, 0.25])


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(ask: Any, good: httpx.Response, status: int) -> None:
    script = Script(busy("2", status), busy("0", status), good)
    ask(script, "pose", POINTS)
    assert (script.requests, ask.time.slept) == (3, [2.1, 0.2])


def test_busy_without_retry_after_is_final(ask: Any, good: httpx.Response) -> None:
    script = Script(busy(None), good)
    with pytest.raises(Overloaded):
        ask(script, "pose", POINTS)
    assert script.requests == 1


def test_no_pause_leads_beyond_the_total(ask: Any) -> None:
    script = Script(busy("4"))
    with pytest.raises(Overloaded) as caught:
        ask(script, "pose", POINTS, retry=RetryPolicy(attempts=9, total_s=10))
    assert caught.value.retry_after_s == 4.0
    assert (script.requests, ask.time.slept) == (3, [4.1, 4.2])


def test_slow_attempts_count_against_the_total(ask: Any) -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        ask.time.now += 6
        raise httpx.ConnectTimeout("slow", request=request)

    with pytest.raises(ConnectionFailed):
        ask(slow, "pose", POINTS, retry=RetryPolicy(attempts=9, total_s=10))
    assert ask.time.slept == [0.1]


@pytest.mark.parametrize("status", [400, 404, 408, 413, 422])
def test_refused_requests_are_not_tried_again(ask: Any, status: int) -> None:
    script = Script(httpx.Response(status, headers={"retry-after": "1"}))
    with pytest.raises(InvalidRequest):
        ask(script, "pose", POINTS)
    assert script.requests == 1


def test_server_faults_are_not_tried_again(ask: Any) -> None:
    script = Script(httpx.Response(500))
    with pytest.raises(ServerFault):
        ask(script, "pose", POINTS)
    assert script.requests == 1


def test_read_timeouts_are_tried_again_only_when_asked(ask: Any, good: httpx.Response) -> None:
    script = Script(httpx.ReadTimeout, good)
    with pytest.raises(TimedOut):
        ask(script, "pose", POINTS)
    assert script.requests == 1
    script = Script(httpx.ReadTimeout, good)
    ask(script, "pose", POINTS, retry=RetryPolicy(read_timeouts=True))
    assert script.requests == 2


@pytest.mark.parametrize(
    ("method", "args"), [("models", ()), ("ready", ()), ("poses", ([POINTS],))]
)
def test_every_method_tries_again(ask: Any, method: str, args: tuple[Any, ...]) -> None:
    script = Script(httpx.ConnectError)
    with pytest.raises(ConnectionFailed):
        ask(script, method, *args)
    assert script.requests == 4


def test_not_ready_is_an_answer(ask: Any) -> None:
    script = Script(busy())
    assert ask(script, "ready") is False
    assert script.requests == 1


def test_last_failure_is_raised_with_its_cause(ask: Any) -> None:
    with pytest.raises(ConnectionFailed) as caught:
        ask(Script(httpx.ReadError, httpx.ConnectError), "pose", POINTS)
    assert type(caught.value.__cause__) is httpx.ConnectError


def policy(**values: Any) -> Callable[[], RetryPolicy]:
    return lambda: RetryPolicy(**values)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (policy(attempts=0), "attempts must be at least 1, not 0"),
        (policy(total_s=-1), "total_s must be finite and not negative, not -1"),
        (
            policy(first_delay_s=float("nan")),
            "first_delay_s must be finite and not negative, not nan",
        ),
        (policy(max_delay_s=float("inf")), "max_delay_s must be finite and not negative, not inf"),
    ],
)
def test_impossible_policies(make: Callable[[], RetryPolicy], sentence: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        make()
    assert str(caught.value) == sentence
