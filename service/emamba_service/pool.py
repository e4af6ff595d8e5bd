"""A bounded pool of threads in front of the engine: full means refused at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from prometheus_client import Gauge

from emamba_service.errors import QueueFullError, RequestTimeoutError

__all__ = ["WorkerPool"]

T = TypeVar("T")


class WorkerPool:
    """Runs work on `threads` threads; `max_queue` pieces more may wait."""

    def __init__(self, threads: int, max_queue: int, timeout_s: float, pending: Gauge) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="emamba")
        self._places = threads + max_queue
        self._free = threading.BoundedSemaphore(self._places)
        self._timeout_s = timeout_s
        self._pending = pending

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        """`work(*args)` on a thread, its exceptions included.

        Raises `QueueFullError` if every place is taken, `RequestTimeoutError` if no result came in
        time.
        Work that has begun runs on after a timeout and keeps its place until it ends.
        """
        if not self._free.acquire(blocking=False):
            raise QueueFullError(
                f"all {self._places} places for requests are taken; try again after 1 s",
                limit=self._places,
            )
        self._pending.inc()
        future = self._executor.submit(work, *args)
        future.add_done_callback(self._release)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._timeout_s)
        except asyncio.TimeoutError as error:
            raise RequestTimeoutError(
                f"the answer must be ready within {self._timeout_s:g} s, but was not; "
                "try again after 1 s"
            ) from error

    def close(self) -> None:
        """Drop what waits and let what runs end."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _release(self, _: Future[Any]) -> None:
        self._pending.dec()
        self._free.release()
