"""uvicorn, made to refuse at the socket what an application never gets to see."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from emamba_service.app import Service
from emamba_service.errors import InvalidHttpError, ServiceError, problem_response
from emamba_service.limits import headers_too_large, read_timeout
from emamba_service.metrics import Metrics
from emamba_service.settings import Settings

__all__ = ["listen", "serve"]


class LimitedProtocol(HttpToolsProtocol):
    """HTTP with a limit on the bytes of a request's head and on the time it takes to arrive.

    uvicorn has neither, and answers bytes that are not HTTP in plain text; here that is a problem
    too. A body is timed by `RequestLimits`; the deadline here also ends a body that goes on after
    its request has been refused.
    """

    def __init__(self, *args: Any, settings: Settings, metrics: Metrics, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._metrics = metrics
        self._deadline: asyncio.TimerHandle | None = None
        self._in_message = False
        self._in_head = False
        self._begun = 0
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.drain()
        super().handle_exit(sig, frame)


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the settings' host and port; raises `OSError`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=1024)


def serve(app: FastAPI, settings: Settings, listener: socket.socket) -> None:
    """Serve `app` on `listener` until SIGTERM or SIGINT, then raise `SystemExit(0)`."""
    service: Service = app.state.service
    level = settings.log_level.upper()
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped.
        signal.signal(number, _leave)
    config = uvicorn.Config(
        app,
        http=cast(
            type[asyncio.Protocol],
            partial(LimitedProtocol, settings=settings, metrics=service.metrics),
        ),
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=settings.log_level == "debug",
        server_header=False,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    _Server(config, service).run(sockets=[listener])


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)
