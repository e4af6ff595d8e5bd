"""Limits of every request's size and time, and the middleware around routes off the express way."""

from __future__ import annotations

import logging
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emamba_service.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    InternalError,
    ReadTimeoutError,
    ServiceError,
    problem_for,
    problem_response,
)
from emamba_service.settings import Settings

__all__ = [
    "LATE",
    "OVERLOADED",
    "Limited",
    "Observer",
    "RequestLimits",
    "headers_too_large",
    "problem_of",
    "read_timeout",
]

_log = logging.getLogger(__name__)
# Key of a request's state, set by the server once its body should have arrived.
LATE = "late"
# Key of a request's state, set where a full queue was the answer.
OVERLOADED = "overloaded"


def headers_too_large(limit: int) -> HeadersTooLargeError:
    """The error for a request line and headers of more than `limit` bytes."""
    return HeadersTooLargeError(
        f"request line and headers must be at most {limit} bytes together", limit=limit
    )


def read_timeout(seconds: float) -> ReadTimeoutError:
    """The error for a request that does not arrive within `seconds`."""
    return ReadTimeoutError(
        f"headers and body must arrive within {seconds:g} s; send the request again", limit=seconds
    )


def problem_of(error: Exception, scope: Scope) -> ServiceError:
    """The problem to answer what a request has raised with; logs what nobody raised on purpose."""
    problem = problem_for(error, scope["path"], scope["method"])
    if isinstance(problem, InternalError):
        _log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return problem


class RequestLimits:
    """Checks that raise for large headers, large bodies (declared or streamed) and late ones."""

    def __init__(self, settings: Settings) -> None:
        self._max_body_bytes = settings.max_body_bytes
        self._max_header_bytes = settings.max_header_bytes
        self._read_timeout_s = settings.read_timeout_s

    def check_headers(self, scope: Scope) -> None:
        """Raise `HeadersTooLargeError` for a large request line and headers."""
        size = len(scope["raw_path"]) + len(scope["query_string"])
        for name, value in scope["headers"]:
            size += len(name) + len(value)
        if size > self._max_header_bytes:
            raise headers_too_large(self._max_header_bytes)

    def check_declared(self, content_length: bytes | None) -> None:
        """Raise `BodyTooLargeError` if a body is declared to be too large."""
        if content_length is not None and content_length.isdigit():
            self.check_body(int(content_length))

    def check_body(self, size: int) -> None:
        """Raise `BodyTooLargeError` for a body of `size` bytes, if it is too large."""
        if size > self._max_body_bytes:
            limit = self._max_body_bytes
            raise BodyTooLargeError(
                f"the body must be at most {limit} bytes; send less at once",
                limit=limit,
            )

    def check_time(self, scope: Scope) -> None:
        """Raise `ReadTimeoutError` once the server has found a request's body to be late."""
        if scope["state"].get(LATE):
            raise read_timeout(self._read_timeout_s)


class Limited:
    """Middleware that holds requests to `RequestLimits`."""

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._limits.check_headers(scope)
        self._limits.check_declared(dict(scope["headers"]).get(b"content-length"))
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._limits.check_body(received)
            if message.get("more_body", False):
                self._limits.check_time(scope)
            return message

        await self._app(scope, limited, send)


class Observer:
    """Outermost: observes every request, and answers what no handler further in has caught."""

    def __init__(
        self,
        app: ASGIApp,
        observe: Callable[[str, int, float, ServiceError | None, Scope], None],
        clock: Callable[[], float],
        headers: Callable[[Scope], list[tuple[bytes, bytes]]],
    ) -> None:
        self._app = app
        self._observe = observe
        self._clock = clock
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun_s = self._clock()
        status = 0
        problem: ServiceError | None = None

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                more = [pair for pair in self._headers(scope) if pair[0] not in given]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if status:
                raise
            problem = problem_of(error, scope)
            await problem_response(problem, scope["path"])(scope, receive, observed)
        route = getattr(scope.get("route"), "path", "unmatched")
        problem = problem or scope["state"].get("problem")
        self._observe(route, status, self._clock() - begun_s, problem, scope)
