"""Processor time that one run through a lane costs the event loop's process, measured.

python bench/lanes.py: an engine that computes nothing, in another process, on uvloop.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time

import numpy as np
import numpy.typing as npt
import uvloop

from emamba.engines import EngineInfo, EngineStatus, Recorded
from emamba_service.lanes import Lane
from emamba_service.lanes.serving import serve_lane

RUNS = 20_000
OUTSTANDING = 32


class _Nothing:
    """Computes nothing."""

    info = EngineInfo("nothing", "computes nothing")
    status = EngineStatus()

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        return np.zeros((len(batch), 57), np.int16)

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        return Recorded(self.run(batch), "nothing")

    def close(self) -> None:
        """Nothing is held."""


class _Keeper:
    """A lane that is lost ends the measurement."""

    def lane_lost(self, lane: Lane, why: str) -> None:
        raise SystemExit(f"the other process {why}")

    lane_hung = lane_unopened = lane_lost

    def lane_closed(self, lane: Lane) -> None:
        """Nothing else is open."""


async def _measure(sock: socket.socket) -> None:
    lane = Lane(_Keeper(), timeout_s=10.0)
    await lane.connect(sock, 10.0)
    batch = np.zeros((1, 8, 8, 5), np.int8)
    for outstanding in (1, OUTSTANDING) * 3:
        begin_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(RUNS // outstanding):
            await asyncio.gather(*(lane.run(batch) for _ in range(outstanding)))
        cpu_us = 1e6 * (time.process_time() - cpu_s) / RUNS
        wall_us = 1e6 * (time.perf_counter() - begin_s) / RUNS
        print(f"{outstanding:2} outstanding: {cpu_us:.1f} us CPU, {wall_us:.1f} us each")
    await lane.close()


def main() -> None:
    """Measure, with the engine in a child process."""
    near, far = socket.socketpair()
    if os.fork() == 0:
        near.close()
        serve_lane(far, _Nothing)
        os._exit(0)
    far.close()
    uvloop.run(_measure(near))


if __name__ == "__main__":
    main()
