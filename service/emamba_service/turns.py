"""Work that takes turns: as much at a time as there is room for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from emamba_service.errors import QueueFullError

__all__ = ["Turns"]


class Turns:
    """At most `running` pieces of work at a time, at most `waiting` more in line for a turn.

    Of one event loop, not thread-safe.
    """

    def __init__(self, running: int, waiting: int) -> None:
        self._free = asyncio.Semaphore(running)
        self._limit = waiting
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Held while a piece of work runs; raises `QueueFullError` where too many are in line."""
        if self._waiting >= self._limit and self._free.locked():
            raise QueueFullError(self._limit)
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
