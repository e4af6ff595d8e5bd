"""Frames at the times that they are due."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

__all__ = ["Pace"]

T = TypeVar("T")


class Pace:
    """Waits until something is due; `close` ends the waiting, from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._closed = threading.Event()

    def play(self, due: Iterable[tuple[float, T]]) -> Iterator[T]:
        """Each item at its time, seconds after the first is asked for. A late one comes at once,
        and the following keep their times."""
        start_s = self._clock()
        for due_s, item in due:
            if self._closed.wait(max(0.0, start_s + due_s - self._clock())):
                return
            yield item

    def close(self) -> None:
        """End what plays."""
        self._closed.set()
