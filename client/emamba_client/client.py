"""The two clients: one core, two thin loops that send."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx
import numpy.typing as npt

from emamba_client._arguments import (
    CONNECT_TIMEOUT_S,
    DEFAULT_URL,
    checked_seconds,
    checked_text,
    checked_token,
    checked_url,
    request_headers,
)
from emamba_client._wire import (
    Call,
    models_call,
    network_error,
    pose_call,
    poses_call,
    ready_call,
)
from emamba_client.errors import ClientClosed, ClientError
from emamba_client.results import ModelInfo, PoseResult, PosesResult
from emamba_client.retry import Attempts, RetryPolicy

T = TypeVar("T")
READ_TIMEOUT_S = 30.0


class _Core:
    """What both clients keep: address, timeouts, retry policy, and whom to ask for."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        version: str | None,
        token: str | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        retry: RetryPolicy | None,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self.url = checked_url(url)
        self._model = checked_text("model", model)
        self._version = checked_text("version", version)
        self._token = checked_token(token)
        self._timeout = httpx.Timeout(
            checked_seconds("read_timeout_s", read_timeout_s),
            connect=checked_seconds("connect_timeout_s", connect_timeout_s),
        )
        self._retry = retry or RetryPolicy()
        self._clock = clock
        self._jitter = jitter

    def _options(self) -> dict[str, Any]:
        headers = request_headers(self._token)
        return {"base_url": self.url, "timeout": self._timeout, "headers": headers}

    def _attempts(self) -> Attempts:
        return Attempts(self._retry, self._clock, self._jitter)

    def _typed(self, error: httpx.RequestError | ClientError) -> ClientError:
        return error if isinstance(error, ClientError) else network_error(error, self.url)


class Client(_Core):
    """Ask an eMamba service for poses; usable from several threads, and as a context manager.

    Every method raises a `ClientError`; arguments that cannot be meant, such as a time-out of -1,
    raise `ValueError` here. `model` and `version` choose among the service's models and default to
    its own choice; `token` is the bearer token of a service that demands one. `transport`, `sleep`,
    `clock` and `jitter` stand between the client and the world, so that tests can replace it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        version: str | None = None,
        token: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(
            url,
            model=model,
            version=version,
            token=token,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            retry=retry,
            clock=clock,
            jitter=jitter,
        )
        self._sleep = sleep
        self._http = httpx.Client(transport=transport, **self._options())

    def pose(self, points: npt.ArrayLike) -> PoseResult:
        """Return the pose of one frame of points [n, 5]: x, y, z (m), Doppler (m/s), intensity."""
        return self._send(pose_call("points", points, self._model, self._version))

    def pose_features(self, features: npt.ArrayLike) -> PoseResult:
        """Return the pose of one feature map [8, 8, 5], its points sorted and padded with zeros."""
        return self._send(pose_call("features", features, self._model, self._version))

    def poses(self, frames: Sequence[npt.ArrayLike]) -> PosesResult:
        """Return one pose per frame, each frame points [n, 5] or a feature map [8, 8, 5]."""
        return self._send(poses_call(frames, self._model, self._version))

    def models(self) -> tuple[ModelInfo, ...]:
        """Return the models the service holds."""
        return self._send(models_call())

    def ready(self) -> bool:
        """Return whether the service takes requests now; False is its own word (503)."""
        return self._send(ready_call())

    def close(self) -> None:
        """Close the connections; every other method raises `ClientClosed` afterwards."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        attempts = self._attempts()
        while True:
            _check_open(self._http)
            try:
                return call.read(self._http.request(call.method, call.path, **_content(call)))
            except (httpx.RequestError, ClientError) as error:
                delay_s = attempts.delay_s(self._typed(error))
            self._sleep(delay_s)


class AsyncClient(_Core):
    """`Client` for asyncio: the same arguments, methods and errors, awaited."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        version: str | None = None,
        token: str | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(
            url,
            model=model,
            version=version,
            token=token,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            retry=retry,
            clock=clock,
            jitter=jitter,
        )
        self._sleep = sleep
        self._http = httpx.AsyncClient(transport=transport, **self._options())

    async def pose(self, points: npt.ArrayLike) -> PoseResult:
        """Return the pose of one frame of points [n, 5]: x, y, z (m), Doppler (m/s), intensity."""
        return await self._send(pose_call("points", points, self._model, self._version))

    async def pose_features(self, features: npt.ArrayLike) -> PoseResult:
        """Return the pose of one feature map [8, 8, 5], its points sorted and padded with zeros."""
        return await self._send(pose_call("features", features, self._model, self._version))

    async def poses(self, frames: Sequence[npt.ArrayLike]) -> PosesResult:
        """Return one pose per frame, each frame points [n, 5] or a feature map [8, 8, 5]."""
        return await self._send(poses_call(frames, self._model, self._version))

    async def models(self) -> tuple[ModelInfo, ...]:
        """Return the models the service holds."""
        return await self._send(models_call())

    async def ready(self) -> bool:
        """Return whether the service takes requests now; False is its own word (503)."""
        return await self._send(ready_call())

    async def close(self) -> None:
        """Close the connections; every other method raises `ClientClosed` afterwards."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _send(self, call: Call[T]) -> T:
        attempts = self._attempts()
        while True:
            _check_open(self._http)
            try:
                return call.read(await self._http.request(call.method, call.path, **_content(call)))
            except (httpx.RequestError, ClientError) as error:
                delay_s = attempts.delay_s(self._typed(error))
            await self._sleep(delay_s)


def _content(call: Call[Any]) -> dict[str, Any]:
    if call.body is None:
        return {}
    return {"content": call.body, "headers": {"Content-Type": "application/json"}}


def _check_open(http: httpx.Client | httpx.AsyncClient) -> None:
    if http.is_closed:
        raise ClientClosed("the client must be open to be asked, but is closed; make a new one")
