"""The queue in front of an engine, with a lane that answers when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emamba.engines import EngineError, EngineUnavailableError, Recorded
from emamba.package import Package
from emamba_service.errors import (
    EngineAwayError,
    EngineFailedError,
    InternalError,
    NotReadyError,
    QueueFullError,
    RequestTimeoutError,
)
from emamba_service.scheduler import Scheduler
from random_models import MARS_CONFIG, random_model

SHAPE = (2, 2, 1)
MODEL = random_model(MARS_CONFIG, 0)


class Plain:
    """A task whose inputs and answers are an engine's integers themselves."""

    def encode(self, inputs: np.ndarray) -> np.ndarray:
        if (inputs < 0).any():
            raise ValueError("made up to fail")
        return inputs * MODEL.formats["input"].lsb

    def decode(self, outputs: np.ndarray) -> np.ndarray:
        return outputs / MODEL.formats["output"].lsb


PACKAGE = Package("plain", "1", MODEL, Plain(), {}, {}, "0" * 64)


class Lane:
    """Keeps the batches it is given; outputs are the first value of each frame."""

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []
        self.running: asyncio.Future[Recorded] | None = None

    def run(self, batch: np.ndarray) -> asyncio.Future[Recorded]:
        assert self.running is None or self.running.done(), "an engine computes one batch at a time"
        self.batches.append(batch)
        self.running = asyncio.get_running_loop().create_future()
        return self.running

    @property
    def names(self) -> list[list[int]]:
        """The first value of each frame of each batch."""
        return [batch[:, 0, 0, 0].tolist() for batch in self.batches]

    async def answer(self) -> None:
        """Finish the batch that is being computed."""
        outputs = self.batches[-1][:, 0, 0, :].astype(np.int16)
        await self.end(lambda running: running.set_result(Recorded(outputs, "made-up", {"k": 1.0})))

    async def end(self, how: Callable[[asyncio.Future[Recorded]], None]) -> None:
        assert self.running is not None
        how(self.running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def frames(*names: int) -> np.ndarray:
    batch = np.zeros((len(names), *SHAPE), np.float32)
    batch[:, 0, 0, 0] = names
    return batch


def play(scene: Callable[[Lane, Scheduler], Awaitable[None]], **limits: Any) -> None:
    """Run `scene` on an event loop of its own."""

    async def stage() -> None:
        lane = Lane()
        seen: list[int] = []
        given_limits = {"max_batch": 8, "max_queue": 4, "delay_s": 0.0} | limits
        loop = asyncio.get_running_loop()
        scheduler = Scheduler(
            PACKAGE,
            lane,
            clock=loop.time,
            observe_batch=lambda frames, *_: seen.append(frames),
            **given_limits,
        )
        await scene(lane, scheduler)
        assert seen == [len(batch) for batch in lane.batches[: len(seen)]]

    asyncio.run(stage())


def test_first_request_is_computed_at_once_and_those_that_came_meanwhile_together():
    async def scene(lane, scheduler):
        first = scheduler.submit(frames(1), "a", 10)
        others = [scheduler.submit(frames(2, 3), "a", 10), scheduler.submit(frames(4), "b", 10)]
        assert (scheduler.waiting, scheduler.pending) == (2, 3)
        await lane.answer()
        assert lane.names in ([[1], [2, 3, 4]], [[1], [4, 2, 3]])
        await lane.answer()
        assert (await first).values.tolist() == [[1]]
        assert [(await one).values.tolist() for one in others] == [[[2], [3]], [[4]]]
        assert (await first).recorded.engine == "made-up"
        assert (await first).recorded.stages_s == {"k": 1.0}
        assert (scheduler.waiting, scheduler.pending) == (0, 0)

    play(scene)


def test_batch_is_filled_up_to_its_limit_and_a_larger_request_goes_alone():
    async def scene(lane, scheduler):
        asked = [scheduler.submit(frames(0), "a", 10)]
        asked += [scheduler.submit(frames(*[k] * n), "a", 10) for k, n in ((1, 5), (2, 4), (3, 9))]
        for _ in asked:
            await lane.answer()
        assert [len(batch) for batch in lane.batches] == [1, 5, 4, 9]
        for one in asked:
            await one

    play(scene)


def test_full_queue_refuses_at_once():
    async def scene(lane, scheduler):
        kept = [scheduler.submit(frames(k), "a", 10) for k in range(5)]
        with pytest.raises(QueueFullError) as refused:
            scheduler.submit(frames(9), "b", 10)
        assert str(refused.value) == (
            "all 4 places for waiting requests are taken; try again after 1 s"
        )
        await lane.answer()
        kept.append(scheduler.submit(frames(9), "b", 10))
        await lane.answer()
        await lane.answer()
        assert [int((await one).values[0, 0]) for one in kept] == [0, 1, 2, 3, 4, 9]

    play(scene)


def test_deadline_is_kept_while_queued_and_while_computed():
    async def scene(lane, scheduler):
        running = scheduler.submit(frames(1), "a", 0.02)
        queued = scheduler.submit(frames(2), "a", 0.01)
        with pytest.raises(RequestTimeoutError, match=r"0\.01 s, but the request still waited for"):
            await queued
        assert scheduler.waiting == 0
        with pytest.raises(RequestTimeoutError, match=r"0\.02 s, but the request still was being"):
            await running
        after = scheduler.submit(frames(3), "a", 10)
        await lane.answer()
        await lane.answer()
        assert (await after).values.tolist() == [[3]]
        assert lane.names == [[1], [3]], "what has expired is not computed"

    play(scene)


def test_request_whose_time_is_over_before_it_waits_is_refused():
    async def scene(lane, scheduler):
        with pytest.raises(RequestTimeoutError, match=r"0\.01 s, but the request still was being"):
            scheduler.submit(frames(1), "a", 0.01, spent_s=0.02)
        assert (lane.batches, scheduler.pending) == ([], 0)

    play(scene)


def test_expired_requests_take_no_memory_while_an_engine_hangs():
    async def scene(lane, scheduler):
        running = scheduler.submit(frames(0), "a", 10)
        for _ in range(40):
            with pytest.raises(RequestTimeoutError):
                await scheduler.submit(frames(1), "a", 0.001)
        assert len(scheduler._queue) <= 9
        await lane.answer()
        await running

    play(scene)


def test_smaller_priority_numbers_go_first():
    async def scene(lane, scheduler):
        scheduler.submit(frames(0), "a", 10)
        for name, priority in ((1, 9), (2, 5), (3, 1), (4, 5)):
            scheduler.submit(frames(name), "a", 10, priority)
        for _ in range(5):
            await lane.answer()
        assert lane.names == [[0], [3], [2], [4], [1]]

    play(scene, max_batch=1)


def test_clients_take_turns_by_frames():
    async def scene(lane, scheduler):
        scheduler.submit(frames(0), "a", 10)
        for name in (1, 2, 3):
            scheduler.submit(frames(*[name] * 4), "greedy", 10)
        for name in (11, 12, 13, 14, 15):
            scheduler.submit(frames(name), "modest", 10)
        for _ in range(9):
            await lane.answer()
        order = [batch[0] for batch in lane.names]
        assert order.index(14) < order.index(2), "4 frames of one are 4 frames of the other"
        assert order.index(2) < order.index(3)
        assert set(order) == {0, 1, 2, 3, 11, 12, 13, 14, 15}

    play(scene, max_batch=1, max_queue=16)


def test_delay_gathers_requests_until_it_is_over_or_the_batch_is_full():
    async def scene(lane, scheduler):
        scheduler.submit(frames(1), "a", 10)
        scheduler.submit(frames(2), "a", 10)
        assert lane.batches == []
        await asyncio.sleep(0.04)
        assert lane.names == [[1, 2]]
        await lane.answer()
        scheduler.submit(frames(*range(8)), "a", 10)
        assert len(lane.batches) == 2, "a full batch waits for nobody"
        await lane.answer()

    play(scene, delay_s=0.02)


@pytest.mark.parametrize(
    ("failure", "error", "sentence"),
    [
        (EngineUnavailableError("engine x is away"), EngineAwayError, "engine x is away"),
        (EngineError("engine x failed"), EngineFailedError, "engine x failed"),
    ],
)
def test_failure_reaches_each_request_of_its_batch_and_none_after(failure, error, sentence):
    async def scene(lane, scheduler):
        first = scheduler.submit(frames(1), "a", 10)
        await lane.end(lambda running: running.set_exception(failure))
        with pytest.raises(error) as raised:
            await first
        assert str(raised.value) == sentence
        after = scheduler.submit(frames(2), "a", 10)
        await lane.answer()
        assert (await after).values.tolist() == [[2]]

    play(scene)


def test_input_that_cannot_be_quantised_fails_its_batch_and_the_next_is_computed():
    async def scene(lane, scheduler):
        wrong = scheduler.submit(frames(-1), "a", 10)
        with pytest.raises(InternalError, match="its log says why"):
            await wrong
        after = scheduler.submit(frames(2), "a", 10)
        await lane.answer()
        assert (await after).values.tolist() == [[2]]
        assert (await after).batch.dtype == np.int8

    play(scene)


def test_closed_lane_is_not_ready():
    async def scene(lane, scheduler):
        first = scheduler.submit(frames(1), "a", 10)
        await lane.end(lambda running: running.cancel())
        with pytest.raises(NotReadyError, match="the engine was closed"):
            await first

    play(scene)


def test_request_whose_caller_left_is_not_computed():
    async def scene(lane, scheduler):
        scheduler.submit(frames(1), "a", 10)
        left = scheduler.submit(frames(2), "a", 10)
        kept = scheduler.submit(frames(3), "a", 10)
        left.cancel()
        await lane.answer()
        await lane.answer()
        assert lane.names == [[1], [3]]
        assert (await kept).values.tolist() == [[3]]

    play(scene)


def test_draining_answers_what_is_there_and_refuses_what_comes():
    async def scene(lane, scheduler):
        asked = [scheduler.submit(frames(1), "a", 10), scheduler.submit(frames(2), "a", 10)]
        draining = asyncio.ensure_future(scheduler.drain(10))
        await asyncio.sleep(0)
        with pytest.raises(NotReadyError, match="is being unloaded; try again"):
            scheduler.submit(frames(3), "a", 10)
        await lane.answer()
        await lane.answer()
        await draining
        assert [(await one).values.tolist() for one in asked] == [[[1]], [[2]]]

    play(scene)


def test_draining_ends_in_time_and_refuses_the_rest():
    async def scene(lane, scheduler):
        asked = [scheduler.submit(frames(1), "a", 10), scheduler.submit(frames(2), "a", 10)]
        await scheduler.drain(0.01)
        for one in asked:
            with pytest.raises(NotReadyError, match="send the request to another instance"):
                await one
        assert scheduler.waiting == 0

    play(scene)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.integers(1, 9)),
        min_size=1,
        max_size=20,
    ),
    max_batch=st.integers(1, 8),
)
def test_every_request_gets_its_own_outputs_whatever_shares_its_batch(requests, max_batch):
    async def scene(lane, scheduler):
        asked = []
        for number, (count, client, priority) in enumerate(requests):
            names = range(number * 5, number * 5 + count)
            asked.append((names, scheduler.submit(frames(*names), client, 10, priority)))
        while scheduler.pending:
            assert len(lane.batches[-1]) <= max(max_batch, 5)
            await lane.answer()
        for names, one in asked:
            assert (await one).values[:, 0].tolist() == list(names)

    play(scene, max_batch=max_batch, max_queue=20)
