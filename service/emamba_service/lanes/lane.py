"""The event loop's end of a lane: runs go out, answers come back in order."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import orjson

from emamba.engines import EngineError, EngineInfo, EngineStatus, EngineUnavailableError, Recorded
from emamba_service.lanes.wire import Frame, Kind, Reader, WireError, pack

__all__ = ["CLOSE_LIMIT_S", "MOST_OUTSTANDING", "Keeper", "Lane", "LaneLostError"]

# Runs that may be outstanding on one lane.
MOST_OUTSTANDING = 64
# For the outstanding runs to end and the engine to close.
CLOSE_LIMIT_S = 5.0
_CLOSED = EngineStatus("failed", "the engine must be open, but has been closed")


class LaneLostError(Exception):
    """A lane whose far end went away while its engine was being opened."""


class Keeper(Protocol):
    """Whoever opened a lane, and is told what becomes of it."""

    def lane_lost(self, lane: Lane, why: str) -> None:
        """The far end is gone; `why` completes "the engine's process ...". Answer with `lose`."""
        ...

    def lane_hung(self, lane: Lane, why: str) -> None:
        """The far end does not answer; `why` completes "the engine's process ...". End it."""
        ...

    def lane_unopened(self, lane: Lane, why: str) -> None:
        """No engine opened in time; `why` completes "the engine's process ..."."""
        ...

    def lane_closed(self, lane: Lane) -> None:
        """The lane is not needed any more."""
        ...


class Lane:
    """Runs batches on one engine at the other end of a socket. Of one event loop, not thread-safe.

    A keeper connects it, again after the far end was lost. `timeout_s` is the longest wait for one
    run, None for as long as it takes.
    """

    def __init__(self, keeper: Keeper, timeout_s: float | None = None) -> None:
        self._keeper = keeper
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._link: _Link | None = None
        self._lost: _Link | None = None
        self._closed = False
        self._info = EngineInfo("none", "no engine has been opened yet")
        self._status = EngineStatus("recovering", "the engine is being opened")

    @property
    def info(self) -> EngineInfo:
        """Name and description of the engine."""
        return self._info

    @property
    def status(self) -> EngineStatus:
        """How the engine fares, or why there is none now."""
        return self._status if self._link is None else self._link.status

    @property
    def is_connected(self) -> bool:
        """Whether an engine is open at the other end."""
        return self._link is not None

    def run(self, batch: npt.NDArray[np.int8]) -> asyncio.Future[Recorded]:
        """int8 (n, height, width, channels) -> outputs, int16 (n, n_outputs), read-only.

        The future fails with `EngineUnavailableError` where the engine cannot answer now, and with
        `EngineError` where it has failed. A run whose future is cancelled is computed all the same.
        """
        future: asyncio.Future[Recorded] = self._loop.create_future()
        if self._link is None:
            future.set_exception(EngineUnavailableError(self._status.reason))
        else:
            self._link.send(batch, future)
        return future

    async def connect(self, sock: socket.socket, limit_s: float) -> None:
        """Have the engine that `sock` leads to answer, once it is open; takes `sock` over.

        Raises `EngineError` with the engine's sentence if it does not open, or not within
        `limit_s`; `LaneLostError` if the far end goes away.
        """
        link = _Link(self, self._timeout_s)
        try:
            await self._loop.create_unix_connection(lambda: link, sock=sock)
        except BaseException:
            sock.close()
            raise
        try:
            await asyncio.wait_for(link.opened, limit_s)
            if link.is_lost:
                raise LaneLostError
        except asyncio.TimeoutError:
            why = f"did not open an engine within {limit_s:g} s"
            link.abort()
            self._keeper.lane_unopened(self, why)
            raise EngineError(f"the engine's process {why}") from None
        except BaseException:
            link.abort()
            raise
        if self._closed:
            link.abort()
            return
        self._info = link.info
        self._link = link

    def lose(self, status: EngineStatus) -> None:
        """Fare as `status` says until connected anew; what was outstanding fails for its reason."""
        self._status = status
        for link in (self._link, self._lost):
            if link is not None:
                link.fail(EngineUnavailableError(status.reason))
                link.abort()
        self._link = self._lost = None

    async def close(self) -> None:
        """Let the outstanding runs end, then close the engine; at most `CLOSE_LIMIT_S`."""
        if self._closed:
            return
        self._closed = True
        link, self._link = self._link, None
        self.lose(_CLOSED)
        self._keeper.lane_closed(self)
        if link is not None and not await link.close(CLOSE_LIMIT_S):
            link.fail(EngineUnavailableError(_CLOSED.reason))
            self._keeper.lane_hung(self, f"did not close an engine within {CLOSE_LIMIT_S:g} s")

    def link_lost(self, link: _Link, why: str) -> None:
        """The far end of `link` is gone."""
        if link is self._link:
            self._link, self._lost = None, link
            self._status = EngineStatus(
                "recovering", f"the engine's process {why} and is being started anew; try again"
            )
            self._keeper.lane_lost(self, why)
        else:
            link.fail(EngineUnavailableError(self._status.reason))

    def link_hung(self, why: str) -> None:
        """The far end does not answer."""
        self._keeper.lane_hung(self, why)


class _Link(asyncio.Protocol):
    """One connection of a lane."""

    def __init__(self, lane: Lane, timeout_s: float | None) -> None:
        self._lane = lane
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._reader = Reader()
        self._waiting: deque[tuple[asyncio.Future[Recorded], int]] = deque()
        # When the first of the waiting runs became the one being computed.
        self._since_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._why = "closed the socket of an engine"
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.info = EngineInfo("none", "")
        self.status = EngineStatus()

    @property
    def is_lost(self) -> bool:
        return self._gone.done()

    def send(self, batch: npt.NDArray[np.int8], future: asyncio.Future[Recorded]) -> None:
        if len(self._waiting) >= MOST_OUTSTANDING:
            sentence = f"an engine must have at most {MOST_OUTSTANDING} runs outstanding; try again"
            future.set_exception(EngineUnavailableError(sentence))
            return
        try:
            frame = pack(Kind.RUN, b"", batch)
        except WireError as error:
            future.set_exception(EngineError(str(error)))
            return
        if not self._waiting and self._timeout_s is not None:
            self._since_s = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout_s, self._check_time)
        self._waiting.append((future, len(batch)))
        self._transport.write(frame)

    def fail(self, error: EngineUnavailableError) -> None:
        """Fail what is outstanding."""
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    async def close(self, limit_s: float) -> bool:
        """Tell the far end to close its engine; whether it did."""
        if not self._gone.done():
            self._transport.write_eof()
        await asyncio.wait([self._gone], timeout=limit_s)
        is_closed = self._gone.done()
        self.abort()
        return is_closed

    def abort(self) -> None:
        self._stop_timer()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._gone.set_result(None)
        if not self.opened.done():
            self.opened.set_exception(LaneLostError())
            # Nobody may be waiting for it.
            self.opened.exception()
        self._lane.link_lost(self, self._why)

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except (WireError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            self._why = f"sent what is no answer ({error})"
            self.abort()

    def _take(self, frame: Frame) -> None:
        kind, note, array = frame
        if kind is Kind.ANSWER:
            self._answer(note, cast("npt.NDArray[np.int16]", array))
        elif kind is Kind.STATUS:
            self.status = _status(orjson.loads(note))
        elif kind is Kind.OPENED and not self.opened.done():
            about = orjson.loads(note)
            self.info = EngineInfo(about["name"], about["description"])
            self.status = _status(about)
            self.opened.set_result(None)
        elif kind is Kind.FAILED or kind is Kind.UNAVAILABLE:
            self._refuse(kind, note.decode(errors="replace"))
        else:
            raise WireError(f"a frame of kind {kind.name} must not come here")

    def _answer(self, note: bytes, outputs: npt.NDArray[np.int16]) -> None:
        frames = self._first()
        if len(outputs) != frames:
            raise WireError(f"{frames} frames must have one answer each, but have {len(outputs)}")
        if note:
            about = orjson.loads(note)
            recorded = Recorded(outputs, about["engine"], about["stages_s"])
        else:
            recorded = Recorded(outputs, self.info.name)
        future = self._take_first()
        if not future.done():
            future.set_result(recorded)

    def _refuse(self, kind: Kind, sentence: str) -> None:
        unavailable = kind is Kind.UNAVAILABLE
        error = EngineUnavailableError(sentence) if unavailable else EngineError(sentence)
        if not self.opened.done():
            self.opened.set_exception(error)
            return
        self._first()
        future = self._take_first()
        if not future.done():
            future.set_exception(error)

    def _first(self) -> int:
        """The frames of the run that is answered now. It stays among the outstanding ones until all
        of its answer is understood, so that it fails if the lane is lost for that."""
        if not self._waiting:
            raise WireError("an answer must follow a run")
        return self._waiting[0][1]

    def _take_first(self) -> asyncio.Future[Recorded]:
        if len(self._waiting) > 1:
            self._since_s = self._loop.time()
        return self._waiting.popleft()[0]

    def _check_time(self) -> None:
        """Called once in `timeout_s` at most, since a timer for each run would cost more."""
        self._timer = None
        if not self._waiting or self._timeout_s is None:
            return
        left_s = self._since_s + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_time)
        else:
            self._lane.link_hung(f"did not answer within {self._timeout_s:g} s")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _status(about: dict[str, Any]) -> EngineStatus:
    return EngineStatus(about["state"], about["reason"])
