"""ASGI middleware around every route: size and time limits, problems, request metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emamba_service.errors import (
    BodyTooLargeError,
    HeadersTooLargeError,
    InternalError,
    ReadTimeoutError,
    problem_for,
    problem_response,
)
from emamba_service.metrics import Metrics
from emamba_service.settings import Settings

__all__ = ["Observer", "RequestLimits", "headers_too_large", "read_timeout"]

_log = logging.getLogger(__name__)


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


class RequestLimits:
    """Refuses large headers, large bodies (declared or streamed) and slow bodies."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._max_body_bytes = settings.max_body_bytes
        self._max_header_bytes = settings.max_header_bytes
        self._read_timeout_s = settings.read_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._check_headers(scope)
        await self._app(scope, self._limited(receive), send)

    def _check_headers(self, scope: Scope) -> None:
        size = len(scope["raw_path"]) + len(scope["query_string"])
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            declared = name == b"content-length" and value.isdigit()
            if declared and int(value) > self._max_body_bytes:
                raise self._body_too_large()
        if size > self._max_header_bytes:
            raise headers_too_large(self._max_header_bytes)

    def _limited(self, receive: Receive) -> Receive:
        deadline = anyio.current_time() + self._read_timeout_s
        received = 0
        complete = False

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
                    message = await receive()
            except TimeoutError as error:
                raise read_timeout(self._read_timeout_s) from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._max_body_bytes:
                raise self._body_too_large()
            return message

        return limited

    def _body_too_large(self) -> BodyTooLargeError:
        limit = self._max_body_bytes
        return BodyTooLargeError(
            f"the body must be at most {limit} bytes; send fewer frames per request", limit=limit
        )


class Observer:
    """Outermost: measures every request, and answers what no handler further in has caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = self._clock()
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if status:
                raise
            await self._answer(error, scope, receive, observed)
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.requests.labels(route, status).observe(self._clock() - start)

    async def _answer(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        problem = problem_for(error, scope["path"], scope["method"])
        if isinstance(problem, InternalError):
            _log.exception("%s %s failed", scope["method"], scope["path"])
        self._metrics.errors.labels(problem.kind).inc()
        await problem_response(problem)(scope, receive, send)
