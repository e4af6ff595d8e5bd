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
    """Entries in the order of their turns; the places of some `clients` are remembered.

    Not thread-safe.
    """

    def __init__(self, clients: int) -> None:
        self._heap: list[tuple[int, int, int, T]] = []
        self._numbers = count()
        self._clients = clients
        self._place = 0
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        """All entries, in no order."""
        return (entry for *_, entry in self._heap)

    def add(self, entry: T, client: str, cost: int, priority: int) -> None:
        """Line `entry` up."""
        place = max(self._place, self._places.get(client, 0)) + cost
        self._places[client] = place
        heapq.heappush(self._heap, (priority, place, next(self._numbers), entry))

    @property
    def first(self) -> T:
        """The entry whose turn is next; there must be one."""
        return self._heap[0][-1]

    def take(self, served: bool) -> T:
        """Remove the first entry; its turn moves the queue's place only if it is `served`."""
        _, place, _, entry = heapq.heappop(self._heap)
        if served:
            self._place = max(self._place, place)
        if not self._heap:
            self._places.clear()
            self._place = 0
        elif len(self._places) > self._clients:
            self._places = {name: at for name, at in self._places.items() if at > self._place}
        return entry

    def keep(self, wanted: Callable[[T], bool]) -> None:
        """Remove all entries but the wanted ones."""
        self._heap = [row for row in self._heap if wanted(row[-1])]
        heapq.heapify(self._heap)
