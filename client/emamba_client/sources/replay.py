"""The frames that come with the client, at the radar's pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import ClassVar

from emamba_client.samples import SampleFrame
from emamba_client.sources import SourceFrame
from emamba_client.sources.pace import Pace

__all__ = ["ReplaySource"]


class ReplaySource:
    """Plays `frames` `hz` times a second, over and over with `loop`; their numbers count up."""

    name: ClassVar[str] = "replay"
    is_live: ClassVar[bool] = False

    def __init__(
        self,
        frames: Sequence[SampleFrame],
        hz: float = 10.0,
        loop: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._frames = frames
        self._hz = hz
        self._loop = loop
        self._clock = clock
        self._pace = Pace(clock)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames at their times, as `Source` says."""
        numbers = count() if self._loop else iter(range(len(self._frames)))
        for number in self._pace.play((number / self._hz, number) for number in numbers):
            frame = self._frames[number % len(self._frames)]
            yield SourceFrame("points", frame.points, number, self._clock(), frame.labels)

    def close(self) -> None:
        """End the replay."""
        self._pace.close()

    def counts(self) -> dict[str, int]:
        """Nothing is lost."""
        return {}
