"""An emulated board in the engine process: its status, faults and stages reach the service."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from emamba.engines import EngineStatus
from emamba.fixed import Mirror
from emamba.package import Package
from emamba_service.lanes import ProcessRoom
from emamba_service.settings import Settings

pytest.importorskip("pynq", reason="needs pynq")

FOLDER = Path(__file__).resolve().parents[2] / "models" / "mars" / "1"


@asynccontextmanager
async def opened(faults: str, registry: CollectorRegistry) -> AsyncIterator[ProcessRoom]:
    room = ProcessRoom(Settings(emulator_faults=faults), registry)
    try:
        yield room
    finally:
        await room.close()


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_faults_are_counted_and_stages_told_across_a_crash(mars: Package) -> None:
    batch = np.random.default_rng(0).integers(-127, 128, (5, 8, 8, 5)).astype(np.int8)
    expected = Mirror(mars.model).run(batch)
    registry = CollectorRegistry()

    def is_counted(number: int) -> bool:
        faults = registry.get_sample_value("emamba_board_faults_total", {"kind": "transport"})
        mended = registry.get_sample_value("emamba_board_mended_total", {"step": "reset"})
        return faults == mended == number

    def is_replaced(room: ProcessRoom, first: int | None) -> bool:
        return room.pid not in (None, first)

    async def main() -> None:
        async with opened("output_flip@3", registry) as room:
            lane = await room.open("emulator", FOLDER, mars)
            for faults in (1, 2):
                for _ in range(5):
                    recorded = await lane.run(batch)
                    assert np.array_equal(recorded.outputs, expected)
                    assert recorded.engine == "emulator"
                    assert {"pack", "kernel", "guard"} <= recorded.stages_s.keys()
                assert lane.status == EngineStatus()
                await until(partial(is_counted, faults))
                first = room.pid
                os.kill(cast(int, first), signal.SIGKILL)
                await until(partial(is_replaced, room, first))
                await until(lambda: lane.status == EngineStatus())

    asyncio.run(main())


def test_board_that_mends_itself_says_so_without_a_request(mars: Package) -> None:
    batch = np.zeros((1, 8, 8, 5), np.int8)

    async def main() -> None:
        # The second download, which is to mend the first fault, fails; the third succeeds.
        faults = "overlay_gone@900,wrong_identity@1"
        async with opened(faults, CollectorRegistry()) as room:
            lane = await room.open("emulator", FOLDER, mars)
            engine = "emulator"
            while engine == "emulator":
                assert lane.status == EngineStatus()
                engine = (await lane.run(batch)).engine
            assert engine == "native"
            assert lane.status.state == "degraded"
            assert lane.status.reason.startswith(
                "native answers in its place: the board is out of use"
            )
            await until(lambda: lane.status == EngineStatus())
            assert (await lane.run(batch)).engine == "emulator"

    asyncio.run(main())
