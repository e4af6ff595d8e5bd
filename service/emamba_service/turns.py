"""Work that takes turns: as much at a time as there is room for."""

from __future__ import annotations

import asyncio

from emamba_service.errors import QueueFullError, RequestTimeoutError
from emamba_service.fair_queue import FairQueue

__all__ = ["Turns"]


class Turns:
    """At most `running` pieces of work at a time, at most `waiting` more in a fair queue.

    Of one event loop, not thread-safe.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free = running
        self._limit = waiting
        self._waiting = 0
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(
            2 * waiting, lambda turn: not turn.done()
        )

    async def take(self, client: str, priority: int, timeout_s: float, spent_s: float) -> None:
        """Wait for a turn that comes within `timeout_s`, of which `spent_s` are over.

        Who has it must `give_back` it. Raises `QueueFullError` or `RequestTimeoutError`.
        """
        if spent_s >= timeout_s:
            raise _too_late(timeout_s)
        if self._free:
            self._free -= 1
            return
        if self._waiting >= self._limit:
            raise QueueFullError(self._limit)
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._queue.add(turn, client, 1, priority)
        self._waiting += 1
        timer = loop.call_later(timeout_s - spent_s, _expire, turn, timeout_s)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give_back()
            raise
        finally:
            timer.cancel()
            self._waiting -= 1

    def give_back(self) -> None:
        """Pass a turn on to the next who still waits."""
        if self._queue.first() is None:
            self._free += 1
        else:
            self._queue.take().set_result(None)


def _expire(turn: asyncio.Future[None], timeout_s: float) -> None:
    if not turn.done():
        turn.set_exception(_too_late(timeout_s))


def _too_late(timeout_s: float) -> RequestTimeoutError:
    return RequestTimeoutError(timeout_s, "was being read")
