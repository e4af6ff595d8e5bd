"""Work that takes turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from emamba_service.errors import QueueFullError, RequestTimeoutError
from emamba_service.turns import Turns


def play(scene: Callable[[Turns, Callable[..., asyncio.Task[None]]], Awaitable[None]]) -> list[str]:
    """Have a scene played with room for one, and three more who wait; who had turns, in order."""
    had: list[str] = []

    async def main() -> None:
        turns = Turns(running=1, waiting=3)

        async def wait(name: str, client: str, priority: int, timeout_s: float) -> None:
            await turns.take(client, priority, timeout_s, 0.0)
            had.append(name)

        def waits(
            name: str, client: str = "a", priority: int = 5, timeout_s: float = 10
        ) -> asyncio.Task[None]:
            return asyncio.create_task(wait(name, client, priority, timeout_s))

        await scene(turns, waits)

    asyncio.run(main())
    return had


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_no_more_run_or_wait_than_there_is_room_for() -> None:
    async def main() -> None:
        turns, gate, running = Turns(running=2, waiting=1), asyncio.Event(), 0

        async def work() -> None:
            nonlocal running
            await turns.take("a", 5, 10, 0.0)
            running += 1
            await gate.wait()
            running -= 1
            turns.give_back()

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


def test_no_more_wait_than_there_is_room_for() -> None:
    async def scene(turns: Turns, waits: Callable[..., asyncio.Task[None]]) -> None:
        tasks = [waits(name) for name in "0123"]
        await settle()
        with pytest.raises(QueueFullError, match="all 3 places for waiting"):
            await waits("refused")
        for _ in tasks:
            turns.give_back()
            await settle()
        await waits("late")

    assert play(scene) == ["0", "1", "2", "3", "late"]


def test_smaller_priorities_go_first_and_clients_take_turns() -> None:
    async def scene(turns: Turns, waits: Callable[..., asyncio.Task[None]]) -> None:
        await waits("running")
        tasks = [waits("a1"), waits("a2"), waits("b", client="b")]
        await settle()
        for _ in tasks:
            turns.give_back()
            await settle()
        tasks = [waits("last", priority=9), waits("usual"), waits("first", priority=1)]
        await settle()
        for _ in tasks:
            turns.give_back()
            await settle()

    assert play(scene) == ["running", "a1", "b", "a2", "first", "usual", "last"]


def test_who_waits_too_long_is_refused_then_and_has_no_turn() -> None:
    async def scene(turns: Turns, waits: Callable[..., asyncio.Task[None]]) -> None:
        with pytest.raises(RequestTimeoutError, match=r"0\.5 s, but the request still was being"):
            await turns.take("a", 5, 0.5, 0.5)
        await waits("running")
        for _ in range(20):
            with pytest.raises(RequestTimeoutError, match=r"0\.001 s, but the request still was"):
                await waits("late", timeout_s=0.001)
        assert len(turns._queue) <= 6, "what has expired takes no memory"
        turns.give_back()
        await waits("next")

    assert play(scene) == ["running", "next"]


@pytest.mark.parametrize("came", [False, True])
def test_a_turn_of_one_who_went_away_is_the_nexts(came: bool) -> None:
    async def scene(turns: Turns, waits: Callable[..., asyncio.Task[None]]) -> None:
        await waits("running")
        gone, _ = waits("gone"), waits("next")
        await settle()
        if came:
            turns.give_back()
        gone.cancel()
        await settle()
        if not came:
            turns.give_back()
        await settle()
        turns.give_back()
        await waits("last")

    assert play(scene) == ["running", "next", "last"]
