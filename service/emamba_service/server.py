"""uvicorn, made to refuse at the socket what an application never gets to see."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import uvicorn
import uvloop
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from emamba_service.app import create_app
from emamba_service.errors import (
    InvalidHttpError,
    ServiceError,
    TooManyConnectionsError,
    problem_response,
)
from emamba_service.limits import LATE, OVERLOADED, headers_too_large, read_timeout
from emamba_service.metrics import Metrics
from emamba_service.service import Service
from emamba_service.settings import Settings
from emamba_service.tls import HandshakeLoop, ssl_options

__all__ = ["listen", "serve"]

_OVERLOAD_PAUSE_S = 0.25


class LimitedProtocol(HttpToolsProtocol):
    """HTTP with a limit on the bytes of a request's head and on the time it takes to arrive.

    uvicorn has neither, and answers bytes that are not HTTP in plain text; here that is a problem
    too. The application is told of a body that is late; where it has answered already, the
    connection is closed.
    """

    def __init__(self, *args: Any, settings: Settings, metrics: Metrics, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._metrics = metrics
        self._deadline: asyncio.TimerHandle | None = None
        self._too_many = False
        self._in_message = False
        self._in_head = False
        self._begun = 0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._too_many = len(self.connections) > self._settings.max_connections
        if len(self.connections) > 2 * self._settings.max_connections:
            transport.abort()
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._too_many:
            # Only now: closing what has not been read would reset the connection before its answer.
            limit = self._settings.max_connections
            sentence = f"all {limit} connections are taken; try again after 1 s"
            self._refuse(TooManyConnectionsError(sentence, limit=limit))
            return
        self._arm()
        # If `data` is all of one head, that head is the one in progress, or the first to begin.
        expected = self._begun if self._in_message else self._begun + 1
        super().data_received(data)
        if self._in_head and self._begun == expected and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self._settings.max_header_bytes:
                self._refuse(headers_too_large(self._settings.max_header_bytes))

    def on_message_begin(self) -> None:
        self._begun += 1
        self._in_message = self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Leave a connection unread for a while whose request found the queue full.

        A client that waits as Retry-After says does not notice. One that does not would have the
        service spend its time on refusals.
        """
        overloaded = self.cycle.scope["state"].get(OVERLOADED)
        super().on_response_complete()
        if overloaded and not self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()
            self.loop.call_later(_OVERLOAD_PAUSE_S, self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        self._in_message = False
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are not HTTP."""
        self._refuse(InvalidHttpError(InvalidHttpError.example))

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._settings.read_timeout_s, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self._in_head:
            self._refuse(read_timeout(self._settings.read_timeout_s))
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            # Wakes whoever waits for the rest of the body.
            self.cycle.scope["state"][LATE] = True
            self.cycle.message_event.set()

    def _refuse(self, error: ServiceError) -> None:
        """Write the problem past the application and close."""
        self._metrics.errors.labels(error.kind).inc()
        response = problem_response(error)
        lines = [b"HTTP/1.1 %d %s" % (error.status, HTTPStatus(error.status).phrase.encode())]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()


class _Server(uvicorn.Server):
    """Says not ready from the first signal on."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        service.metrics.connections.set_function(lambda: len(self.server_state.connections))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let streams send their last answers before connections are closed."""
        await self._service.streams.drain()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.drain()
        super().handle_exit(sig, frame)


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the settings' host and port; raises `OSError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=1024)


def serve(service: Service, listener: socket.socket, greet: Callable[[], None]) -> None:
    """Serve on `listener` until SIGTERM or SIGINT, then raise `SystemExit(0)`.

    Calls `greet` once models are loaded. Raises `PackageError`, `EngineError` or `SettingsError`
    where `service` does not start.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped.
        signal.signal(number, _leave)
    uvloop.run(
        _serve(service, listener, greet),
        loop_factory=partial(HandshakeLoop, service.settings.read_timeout_s),
    )


async def _serve(service: Service, listener: socket.socket, greet: Callable[[], None]) -> None:
    tls = ssl_options(service.settings)
    await service.start()
    app = create_app(service.settings, service=service)
    server = _Server(_config(app, service, tls), service)
    # The packages and modules of today stay until the end: no need to look at them again.
    gc.collect()
    gc.freeze()
    greet()
    await server.serve(sockets=[listener])


def _config(app: FastAPI, service: Service, tls: dict[str, Any]) -> uvicorn.Config:
    settings = service.settings
    return uvicorn.Config(
        app,
        http=cast(
            type[asyncio.Protocol],
            partial(LimitedProtocol, settings=settings, metrics=service.metrics),
        ),
        ws="websockets-sansio",
        ws_max_size=settings.max_message_bytes,
        ws_ping_interval=settings.stream_heartbeat_s,
        ws_ping_timeout=settings.stream_heartbeat_s,
        ws_per_message_deflate=False,
        lifespan="on",
        # A pipelined request begins in the task of the one before it.
        reset_contextvars=True,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_graceful_shutdown=settings.drain_timeout_s,
        **tls,
    )


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
