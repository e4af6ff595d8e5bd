"""What a driver needs of a board: registers, memory, time. `host.py` has the one that is pynq's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from emamba.engines import EngineError

__all__ = ["BoardError", "BoardFault", "Buffer", "Clock", "Host", "Ports", "Registers", "WallClock"]


class BoardError(EngineError):
    """A board that cannot be opened or configured; the message says what to do."""


class BoardFault(Exception):
    """Something went wrong on a configured board; `kind` is a word for metrics.

    What was computed is dropped. The board needs mending before it is used again.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Registers(Protocol):
    """32-bit registers by word index, as `pynq.MMIO.array`."""

    def __getitem__(self, word: int) -> Any: ...

    def __setitem__(self, word: int, value: int) -> None: ...


class Clock(Protocol):
    """Seconds that never go back, and waiting."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """The machine's own time."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Buffer(Protocol):
    """Memory that the board's DMA reaches, at one physical address."""

    @property
    def words(self) -> npt.NDArray[np.uint64]:
        """The host's view of it."""
        ...

    @property
    def address(self) -> int: ...

    def flush(self, nbytes: int) -> None:
        """Make the first `nbytes` that the host wrote visible to the device."""
        ...

    def invalidate(self, nbytes: int) -> None:
        """Make the first `nbytes` that the device wrote visible to the host."""
        ...


@dataclass(frozen=True)
class Ports:
    """A configured board. `interrupt` waits at most so many seconds for the receiving DMA's and
    says whether it came; the design may have none."""

    kernel: Registers
    dma: Registers
    allocate: Callable[[int], Buffer]
    interrupt: Callable[[float], bool] | None = None
    clock: Clock = field(default_factory=WallClock)


class Host(Protocol):
    """Configures a board; a fresh configuration replaces the one before."""

    def configure(self) -> Ports:
        """Download the overlay; raises `BoardError`."""
        ...

    def close(self) -> None: ...
