"""Frames in and joints out over one WebSocket; docs/stream.md tells what the service does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Literal

import numpy.typing as npt
import websockets.asyncio.client
import websockets.sync.client
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from emamba_client._arguments import (
    CONNECT_TIMEOUT_S,
    DEFAULT_URL,
    checked_seconds,
    checked_text,
    checked_token,
    checked_url,
    request_headers,
)
from emamba_client._stream_wire import (
    Hello,
    StreamAnswer,
    closed_error,
    features_message,
    handshake_error,
    late_error,
    points_message,
    read_answer,
    read_hello,
    stream_url,
)
from emamba_client.errors import ClientClosed, ClientError

__all__ = ["AsyncPoseStream", "PoseStream"]

WhenFull = Literal["block", "drop"]
_FAILURES = (OSError, TimeoutError, InvalidHandshake)


class _Core(ABC):
    """What both streams keep: how to open one, and the numbers of its frames."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        version: str | None = None,
        token: str | None = None,
        publish: str | None = None,
        when_full: WhenFull = "block",
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self.url = checked_url(url)
        self._sequence = 0
        query = {
            "model": checked_text("model", model),
            "version": checked_text("version", version),
            "publish": checked_text("publish", publish),
            "when_full": when_full,
            "timing": "true",
        }
        self._address = stream_url(self.url, query)
        self._options: dict[str, Any] = {
            "additional_headers": request_headers(checked_token(token)),
            "user_agent_header": None,
            "compression": None,
            "open_timeout": checked_seconds("connect_timeout_s", connect_timeout_s),
        }
        self._begin(connect_timeout_s)

    @abstractmethod
    def _begin(self, connect_timeout_s: float) -> None:
        """What is done at once, before anyone asks."""

    @property
    def next_sequence(self) -> int:
        """The number that the next frame will have."""
        return self._sequence + 1

    def _points(self, points: npt.ArrayLike, labels: npt.ArrayLike | None) -> tuple[int, str]:
        message = points_message(self._sequence + 1, points, labels)
        self._sequence += 1
        return self._sequence, message

    def _features(self, features: npt.ArrayLike) -> tuple[int, bytes]:
        message = features_message(self._sequence + 1, features)
        self._sequence += 1
        return self._sequence, message

    def _why(self, cause: ConnectionClosed) -> ClientError:
        if cause.sent is not None and cause.rcvd_then_sent is not True:
            return ClientClosed("the stream must be open, but was closed")
        return closed_error(cause, self.url)


class PoseStream(_Core):
    """A stream to the service at `url`, open from the start; also a context manager.

    Frames are sent without waiting for answers, which come in order. One thread may send while
    another receives. `publish` is a name under which others may watch; `when_full` says what
    happens where frames come faster than they are computed: `block` makes `send_…` wait, `drop` has
    the service drop the oldest. Raises a `ClientError` where there is no stream, or none any more.
    """

    def _begin(self, connect_timeout_s: float) -> None:
        try:
            self._socket = websockets.sync.client.connect(self._address, **self._options)
        except _FAILURES as error:
            raise handshake_error(error, self.url) from error
        try:
            self.hello: Hello = read_hello(self._receive(connect_timeout_s))
        except ClientError:
            self.close()
            raise

    def send_points(self, points: npt.ArrayLike, labels: npt.ArrayLike | None = None) -> int:
        """Send a frame of points (n, 5) and return its number. Viewers get `labels` (19, 3) too."""
        sequence, message = self._points(points, labels)
        self._send(message)
        return sequence

    def send_features(self, features: npt.ArrayLike) -> int:
        """Send a feature map (8, 8, 5) and return its number."""
        sequence, message = self._features(features)
        self._send(message)
        return sequence

    def receive(self, timeout_s: float | None = None) -> StreamAnswer:
        """The next answer; raises `TimedOut` after `timeout_s`."""
        return read_answer(self._receive(timeout_s))

    def close(self) -> None:
        """End the stream; answers that have not come are lost."""
        self._socket.close()

    def __iter__(self) -> Iterator[StreamAnswer]:
        """Answers until the stream is closed here."""
        while True:
            try:
                yield self.receive()
            except ClientClosed:
                return

    def __enter__(self) -> PoseStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: str | bytes) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as closed:
            raise self._why(closed) from closed

    def _receive(self, timeout_s: float | None) -> str | bytes:
        try:
            return self._socket.recv(timeout_s)
        except ConnectionClosed as closed:
            raise self._why(closed) from closed
        except TimeoutError as error:
            raise late_error(self.url, timeout_s or 0.0) from error


class AsyncPoseStream(_Core):
    """`PoseStream` for asyncio: opened by `async with`; the same methods, awaited."""

    hello: Hello

    def _begin(self, connect_timeout_s: float) -> None:
        self._socket: websockets.asyncio.client.ClientConnection | None = None

    async def send_points(self, points: npt.ArrayLike, labels: npt.ArrayLike | None = None) -> int:
        """Send a frame of points (n, 5) and return its number."""
        sequence, message = self._points(points, labels)
        await self._send(message)
        return sequence

    async def send_features(self, features: npt.ArrayLike) -> int:
        """Send a feature map (8, 8, 5) and return its number."""
        sequence, message = self._features(features)
        await self._send(message)
        return sequence

    async def receive(self) -> StreamAnswer:
        """The next answer."""
        return read_answer(await self._receive())

    async def close(self) -> None:
        """End the stream; answers that have not come are lost."""
        await self._open_socket().close()

    async def __aiter__(self) -> AsyncIterator[StreamAnswer]:
        """Answers until the stream is closed here."""
        while True:
            try:
                yield await self.receive()
            except ClientClosed:
                return

    async def __aenter__(self) -> AsyncPoseStream:
        try:
            self._socket = await websockets.asyncio.client.connect(self._address, **self._options)
        except _FAILURES as error:
            raise handshake_error(error, self.url) from error
        try:
            self.hello = read_hello(await self._receive())
        except ClientError:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _open_socket(self) -> websockets.asyncio.client.ClientConnection:
        if self._socket is None:
            raise ClientClosed("the stream must be opened with `async with` before it is used")
        return self._socket

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._open_socket().send(message)
        except ConnectionClosed as closed:
            raise self._why(closed) from closed

    async def _receive(self) -> str | bytes:
        try:
            return await self._open_socket().recv()
        except ConnectionClosed as closed:
            raise self._why(closed) from closed
