"""Modelled time: it passes with every register access and every sleep, never by the wall clock.

So a hang or a deadline costs no waiting, and a run is the same every time.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["REGISTER_ACCESS_S", "EmulatedTime", "Timer"]

# An estimate of one access over AXI4-Lite from the processing system; not measured.
REGISTER_ACCESS_S = 0.25e-6


@dataclass(eq=False)
class Timer:
    """A scheduled action; `cancel` may come at any time."""

    action: Callable[[], None] | None

    def cancel(self) -> None:
        """Forget the action; nothing happens if it was done already."""
        self.action = None


class EmulatedTime:
    """Seconds since the board was made, and what is to happen when.

    `lock` is the whole board's: whoever looks at models or changes them holds it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # Told of every new timer, under the lock.
        self.scheduled: Callable[[], None] | None = None
        self._now_s = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    def now(self) -> float:
        """Modelled seconds."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass, and with them whatever was scheduled."""
        with self.lock:
            self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """As `sleep`, for whoever holds the lock."""
        until_s = self._now_s + seconds
        timers = self._timers
        while timers and timers[0][0] <= until_s:
            self._pop()
        # An action may itself have let time pass.
        self._now_s = max(self._now_s, until_s)

    def schedule(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Do `action` once `delay_s` have passed, holding the lock; equal times go in order."""
        with self.lock:
            timer = Timer(action)
            entry = (self._now_s + max(delay_s, 0.0), next(self._order), timer)
            heapq.heappush(self._timers, entry)
            if self.scheduled is not None:
                self.scheduled()
            return timer

    def until_next(self) -> float | None:
        """Seconds to the next action; None if none is scheduled."""
        with self.lock:
            while self._timers and self._timers[0][2].action is None:
                heapq.heappop(self._timers)
            return self._timers[0][0] - self._now_s if self._timers else None

    def run_next(self) -> bool:
        """Let time pass up to the next action and do it; False if none is scheduled."""
        with self.lock:
            while self._timers:
                if self._pop():
                    return True
            return False

    def clear(self) -> None:
        """Forget everything that is scheduled."""
        with self.lock:
            self._timers.clear()

    def _pop(self) -> bool:
        at_s, _, timer = heapq.heappop(self._timers)
        action, timer.action = timer.action, None
        if action is None:
            return False
        self._now_s = max(self._now_s, at_s)
        action()
        return True
