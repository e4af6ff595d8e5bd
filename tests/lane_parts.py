"""What tests of lanes and of the engine process share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np


def frames(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (count, 8, 8, 5)).astype(np.int8)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what must come true, however slow the machine."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
