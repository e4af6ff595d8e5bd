"""Work that takes turns."""

from __future__ import annotations

import asyncio

import pytest

from emamba_service.errors import QueueFullError
from emamba_service.turns import Turns


def test_no_more_run_or_wait_than_there_is_room_for() -> None:
    async def main() -> None:
        turns, gate, running = Turns(running=2, waiting=1), asyncio.Event(), 0

        async def work() -> None:
            nonlocal running
            async with turns.turn():
                running += 1
                await gate.wait()
                running -= 1

        tasks = [asyncio.create_task(work()) for _ in range(3)]
        await asyncio.sleep(0)
        assert running == 2
        with pytest.raises(QueueFullError, match="all 1 places for waiting"):
            await work()
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        tasks[2] = asyncio.create_task(work())
        gate.set()
        await asyncio.gather(*tasks)
        assert running == 0
        await work()

    asyncio.run(main())
