"""The queue in front of one engine: who is computed next, and together with whom.

What is computed together is also quantised and decoded together, which costs little more than for
one request. Requests that came while the engine was busy are computed together, at once when it is
free; a delay may gather more of them. The waiting take turns by priority, clients and frames
(`fair_queue`). All on the event loop; nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.engines import EngineUnavailableError, Recorded
from emamba.package import Package
from emamba_service.errors import (
    EngineAwayError,
    EngineFailedError,
    InternalError,
    NotReadyError,
    QueueFullError,
    RequestTimeoutError,
    ServiceError,
)
from emamba_service.fair_queue import DEFAULT_PRIORITY, FairQueue
from emamba_service.lanes import Lane

_log = logging.getLogger(__name__)

__all__ = ["Computed", "Scheduler"]


@dataclass(frozen=True, slots=True)
class Computed:
    """One request's share of a computed batch, and the seconds of the batch's stages.

    `batch` is what the engine took, int8 (n, height, width, channels), and `recorded` what it gave;
    `values` are the task's answer, float64 (n, …).
    """

    batch: npt.NDArray[np.int8]
    recorded: Recorded
    values: npt.NDArray[np.float64]
    queue_s: float
    quantise_s: float
    engine_s: float
    postprocess_s: float


@dataclass(slots=True, eq=False)
class _Job:
    inputs: npt.NDArray[Any]
    answer: asyncio.Future[Computed]
    queued_s: float
    timer: asyncio.TimerHandle | None = None
    waiting: bool = True


@dataclass(slots=True)
class _Batch:
    jobs: list[_Job]
    integers: npt.NDArray[np.int8]
    started_s: float
    quantised_s: float


class Scheduler:
    """Requests for `package` wait here for `lane`'s engine, at most `max_queue` of them.

    `observe_batch` is told of each batch that an engine has computed: its frames, and the seconds
    to quantise, to compute and to decode it. `clock` gives seconds.
    """

    def __init__(
        self,
        package: Package,
        lane: Lane,
        *,
        max_batch: int,
        max_queue: int,
        delay_s: float,
        clock: Callable[[], float],
        observe_batch: Callable[[int, float, float, float], None],
    ) -> None:
        self._package = package
        self._lane = lane
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._delay_s = delay_s
        self._clock = clock
        self._observe_batch = observe_batch
        self._loop = asyncio.get_running_loop()
        self._queue: FairQueue[_Job] = FairQueue(2 * max_queue, lambda job: job.waiting)
        self._waiting = 0
        self._frames = 0
        # When the queue was last empty before a request came.
        self._since_s = 0.0
        self._busy: set[_Job] = set()
        self._ripe: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    @property
    def waiting(self) -> int:
        """Requests that wait for the engine."""
        return self._waiting

    @property
    def pending(self) -> int:
        """Requests that wait or are being computed."""
        return self._waiting + len(self._busy)

    @property
    def is_full(self) -> bool:
        """Whether a request would be refused now."""
        return self._waiting >= self._max_queue

    def check_place(self) -> None:
        """Raise `QueueFullError` unless a request would be taken now."""
        if self.is_full:
            raise QueueFullError(self._max_queue)

    def submit(
        self,
        inputs: npt.NDArray[Any],
        client: str,
        timeout_s: float,
        priority: int = DEFAULT_PRIORITY,
        spent_s: float = 0.0,
    ) -> asyncio.Future[Computed]:
        """Have `inputs`, n of the task's checked ones, computed within `timeout_s`, of which
        `spent_s` are over.

        Raises `QueueFullError`, `NotReadyError` or `RequestTimeoutError`; the future fails with the
        last, `EngineAwayError`, `EngineFailedError`, `InternalError` or `NotReadyError`. A request
        whose time is over while it is being computed keeps the engine until it ends; nobody waits
        for it.
        """
        if self._closed:
            raise NotReadyError("this version of the model is being unloaded; try again")
        self.check_place()
        if spent_s >= timeout_s:
            raise RequestTimeoutError(timeout_s, "was being read")
        job = _Job(inputs, self._loop.create_future(), self._clock())
        if not self._waiting:
            self._since_s = job.queued_s
        job.timer = self._loop.call_later(timeout_s - spent_s, self._expire, job, timeout_s)
        self._queue.add(job, client, len(inputs), priority)
        self._waiting += 1
        self._frames += len(inputs)
        self._idle.clear()
        self._start()
        return job.answer

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests; answer those there are within `timeout_s`, refuse the rest."""
        self._closed = True
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except asyncio.TimeoutError:
            jobs = [*self._queue, *self._busy]
            error = NotReadyError(NotReadyError.example)
            for job in jobs:
                self._refuse(job, error)
            self._forget_finished()

    def _start(self) -> None:
        """Compute the next batch, if the engine is free and the batch need not wait for more."""
        if self._busy or not self._waiting:
            return
        wait_s = self._since_s + self._delay_s - self._clock() if self._delay_s else 0.0
        if wait_s <= 0 or self._frames >= self._max_batch:
            self._compute()
        elif self._ripe is None:
            self._ripe = self._loop.call_later(wait_s, self._compute)

    def _compute(self) -> None:
        if self._ripe is not None:
            self._ripe.cancel()
            self._ripe = None
        if self._busy:
            return
        jobs = self._take()
        if not jobs:
            return
        self._busy.update(jobs)
        started_s = self._clock()
        try:
            inputs = [job.inputs for job in jobs]
            integers = self._package.encode(inputs[0] if len(jobs) == 1 else np.concatenate(inputs))
        except Exception:
            self._fail(jobs, "quantised")
            return
        batch = _Batch(jobs, integers, started_s, self._clock())
        self._lane.run(integers).add_done_callback(partial(self._finish, batch))

    def _take(self) -> list[_Job]:
        """The first waiting requests that fit one batch; a larger one goes alone."""
        jobs: list[_Job] = []
        frames = 0
        while (job := self._queue.first()) is not None:
            if jobs and frames + len(job.inputs) > self._max_batch:
                break
            self._queue.take()
            frames += len(job.inputs)
            self._leave_queue(job)
            # Cancelled by its caller, say a stream that was closed.
            if not job.answer.done():
                jobs.append(job)
        return jobs

    def _finish(self, batch: _Batch, ran: asyncio.Future[Recorded]) -> None:
        failure = None if ran.cancelled() else ran.exception()
        if ran.cancelled() or failure is not None:
            error = _error_of(failure)
            for job in batch.jobs:
                self._refuse(job, error)
        else:
            try:
                self._answer(batch, ran.result())
            except Exception:
                self._fail(batch.jobs, "decoded")
                return
        self._go_on()

    def _answer(self, batch: _Batch, recorded: Recorded) -> None:
        computed_s = self._clock()
        values = self._package.decode(recorded.outputs)
        decoded_s = self._clock()
        quantise_s = batch.quantised_s - batch.started_s
        engine_s = computed_s - batch.quantised_s
        postprocess_s = decoded_s - computed_s
        self._observe_batch(len(values), quantise_s, engine_s, postprocess_s)
        at = 0
        for job in batch.jobs:
            part = slice(at, at + len(job.inputs))
            at = part.stop
            if job.timer is not None:
                job.timer.cancel()
            if not job.answer.done():
                mine = Recorded(recorded.outputs[part], recorded.engine, recorded.stages_s)
                job.answer.set_result(
                    Computed(
                        batch.integers[part],
                        mine,
                        values[part],
                        batch.started_s - job.queued_s,
                        quantise_s,
                        engine_s,
                        postprocess_s,
                    )
                )

    def _fail(self, jobs: list[_Job], what: str) -> None:
        """Answer requests that could not be `what`, though their inputs had been checked."""
        _log.exception("requests for %s could not be %s", self._package.name, what)
        for job in jobs:
            self._refuse(job, InternalError(InternalError.example))
        self._go_on()

    def _go_on(self) -> None:
        self._busy.clear()
        self._start()
        self._forget_finished()

    def _expire(self, job: _Job, timeout_s: float) -> None:
        job.timer = None
        waited = "waited for the engine" if job.waiting else "was being computed"
        self._refuse(job, RequestTimeoutError(timeout_s, waited))
        self._forget_finished()

    def _refuse(self, job: _Job, error: ServiceError) -> None:
        if job.timer is not None:
            job.timer.cancel()
        if job.waiting:
            self._leave_queue(job)
        if not job.answer.done():
            job.answer.set_exception(error)

    def _leave_queue(self, job: _Job) -> None:
        job.waiting = False
        self._waiting -= 1
        self._frames -= len(job.inputs)

    def _forget_finished(self) -> None:
        if not self._waiting and not self._busy:
            self._idle.set()


def _error_of(failure: BaseException | None) -> ServiceError:
    """The answer for what a lane raised; None stands for a cancelled run."""
    if failure is None:
        return NotReadyError("the engine was closed; send the request again")
    if isinstance(failure, EngineUnavailableError):
        return EngineAwayError(str(failure))
    return EngineFailedError(str(failure))
