"""Who of the waiting goes first.

A smaller priority number goes first. Within one, clients take turns by what their entries cost:
start-time fair queueing (P. Goyal, H. Vin, H. Cheng, SIGCOMM 1996), where an entry's place is its
client's last place, or the queue's if that is later, plus its cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Generic, TypeVar

__all__ = ["DEFAULT_PRIORITY", "PRIORITIES", "FairQueue"]

PRIORITIES = range(1, 10)
DEFAULT_PRIORITY = 5
T = TypeVar("T")


class FairQueue(Generic[T]):
    """Entries in the order of their turns, as long as each `waits`.

    What waits no more is forgotten, at the latest when more than `limit` entries are held, and the
    places of clients likewise. Not thread-safe.
    """

    def __init__(self, limit: int, waits: Callable[[T], bool]) -> None:
        self._heap: list[tuple[int, int, int, T]] = []
        self._numbers = count()
        self._limit = limit
        self._waits = waits
        self._place = 0
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        """All that wait, in no order."""
        return (entry for *_, entry in self._heap if self._waits(entry))

    def add(self, entry: T, client: str, cost: int, priority: int) -> None:
        """Line `entry` up."""
        if len(self._heap) >= self._limit:
            self._heap = [row for row in self._heap if self._waits(row[-1])]
            heapq.heapify(self._heap)
        place = max(self._place, self._places.get(client, 0)) + cost
        self._places[client] = place
        heapq.heappush(self._heap, (priority, place, next(self._numbers), entry))

    def first(self) -> T | None:
        """The entry whose turn is next, if any waits."""
        while self._heap and not self._waits(self._heap[0][-1]):
            self._pop()
        return self._heap[0][-1] if self._heap else None

    def take(self) -> T:
        """Remove and give `first()`, which there must be."""
        self._place = max(self._place, self._heap[0][1])
        return self._pop()

    def _pop(self) -> T:
        entry = heapq.heappop(self._heap)[-1]
        if not self._heap:
            self._places.clear()
            self._place = 0
        elif len(self._places) > self._limit:
            self._places = {name: at for name, at in self._places.items() if at > self._place}
        return entry
