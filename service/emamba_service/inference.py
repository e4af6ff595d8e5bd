"""An inference request's way: input -> queue -> quantise -> engine -> decode -> answer.

Whatever protocol a request came by, `Inference.run` answers it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.engines import Recorded
from emamba_service.errors import (
    EngineAwayError,
    NotReadyError,
    QueueFullError,
    RequestTimeoutError,
    ServiceError,
)
from emamba_service.fair_queue import DEFAULT_PRIORITY
from emamba_service.metrics import ENGINE_STAGES, Metrics
from emamba_service.models import LoadedModel, Models
from emamba_service.scheduler import Computed
from emamba_service.turns import Turns

__all__ = ["Answered", "Ask", "Inference", "Witness", "answered"]

# Takes an answered request's model, its input and what the engine made of it.
Witness = Callable[[LoadedModel, npt.NDArray[np.int8], Recorded], None]
_OUTCOMES: dict[type[ServiceError], str] = {
    QueueFullError: "queue_full",
    RequestTimeoutError: "timeout",
    EngineAwayError: "unavailable",
    NotReadyError: "unavailable",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """How a request is to be treated.

    Clients take turns by `client`. `received_at` is the clock's time at the end of reading, from
    which `timeout_s` counts. Priority 1 is served first, 9 last; 0 is the default.
    """

    client: str
    received_at: float
    priority: int = 0
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """A computed request, and the seconds before its queue and from its arrival to now."""

    computed: Computed
    preprocess_s: float
    total_s: float

    @property
    def values(self) -> npt.NDArray[np.float64]:
        """The task's answer, float64 (b, …)."""
        return self.computed.values

    @property
    def engine(self) -> str:
        """The name of the engine that computed it."""
        return self.computed.recorded.engine

    @property
    def timing_us(self) -> dict[str, Any]:
        """Microseconds by stage, as answers show them."""
        computed = self.computed
        timing_us: dict[str, Any] = {
            "preprocess": _microseconds(self.preprocess_s),
            "queue": _microseconds(computed.queue_s),
            "quantise": _microseconds(computed.quantise_s),
            "engine": _microseconds(computed.engine_s),
            "postprocess": _microseconds(computed.postprocess_s),
            "total": _microseconds(self.total_s),
        }
        if stages_s := computed.recorded.stages_s:
            timing_us["engine_stages"] = {
                stage: _microseconds(stages_s[stage])
                for stage in ENGINE_STAGES
                if stage in stages_s
            }
        return timing_us


# What the request that is being answered has been answered, for whoever traces it.
answered: ContextVar[Answered | None] = ContextVar("answered", default=None)


class Inference:
    """Answers inference requests; on the event loop's thread.

    `clock` gives seconds and never goes back. `witness`, if any, is shown every answered request.
    `closed` says why no request is taken, if none is.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        clock: Callable[[], float],
        request_timeout_s: float,
    ) -> None:
        self.models = models
        self.witness: Witness | None = None
        self.closed: str | None = None
        self._metrics = metrics
        self._clock = clock
        self._request_timeout_s = request_timeout_s

    def check_open(self) -> None:
        """Raise `NotReadyError` while no request is taken."""
        if self.closed is not None:
            raise NotReadyError(self.closed)

    def check_room(self, name: str | None) -> None:
        """Raise `QueueFullError` where every queue that a request can mean is full.

        `name` is the model's, where that is known before the body, which then need not be read.
        """
        meant = self.models if name is None else self.models.versions(name).values()
        last = None
        for last in meant:
            if not last.scheduler.is_full:
                return
        if last is not None:
            try:
                last.scheduler.check_place()
            except QueueFullError as error:
                self._count_failure(last, error, 0.0)
                raise

    def get(self, name: str | None = None, version: str | None = None) -> LoadedModel:
        """The model asked for.

        Raises `NotReadyError`, `UnknownModelError` or `UnknownVersionError`.
        """
        self.check_open()
        return self.models.get(name, version)

    @asynccontextmanager
    async def turn(self, loaded: LoadedModel, turns: Turns, ask: Ask) -> AsyncIterator[None]:
        """Held while something is done for a request before it is computed.

        Raises `QueueFullError` or `RequestTimeoutError`.
        """
        spent_s = self._clock() - ask.received_at
        priority = ask.priority or DEFAULT_PRIORITY
        try:
            await turns.take(ask.client, priority, self._timeout_s(ask), spent_s)
        except ServiceError as error:
            self._count_failure(loaded, error, self._clock() - ask.received_at)
            raise
        try:
            yield
        finally:
            turns.give_back()

    async def run(self, loaded: LoadedModel, inputs: npt.NDArray[Any], ask: Ask) -> Answered:
        """Compute `inputs`, the task's checked ones: float32 (b, 8, 8, 5) maps, uint8 (b, h, w, c)
        images.

        Raises `QueueFullError`, `RequestTimeoutError`, `EngineAwayError`, `EngineFailedError`,
        `InternalError` or `NotReadyError`.
        """
        preprocess_s = self._clock() - ask.received_at
        try:
            computed = await loaded.scheduler.submit(
                inputs,
                ask.client,
                self._timeout_s(ask),
                ask.priority or DEFAULT_PRIORITY,
                spent_s=preprocess_s,
            )
        except ServiceError as error:
            self._count_failure(loaded, error, self._clock() - ask.received_at)
            raise
        if self.witness is not None:
            self.witness(loaded, computed.batch, computed.recorded)
        self._count_answer(loaded, computed, preprocess_s)
        total_s = self._clock() - ask.received_at
        result = Answered(computed, preprocess_s, total_s)
        answered.set(result)
        return result

    def _timeout_s(self, ask: Ask) -> float:
        longest_s = self._request_timeout_s
        return longest_s if ask.timeout_s is None else min(ask.timeout_s, longest_s)

    def _count_answer(self, loaded: LoadedModel, computed: Computed, preprocess_s: float) -> None:
        package = loaded.package
        frames = len(computed.values)
        self._metrics.observe_answer(package.name, package.version, computed, preprocess_s)
        loaded.statistics.record_success(
            frames,
            queue_s=computed.queue_s,
            preprocess_s=preprocess_s + computed.quantise_s,
            infer_s=computed.engine_s,
            postprocess_s=computed.postprocess_s,
        )

    def _count_failure(self, loaded: LoadedModel, error: ServiceError, seconds: float) -> None:
        package = loaded.package
        outcome = _OUTCOMES.get(type(error), "failed")
        self._metrics.count_refusal(package.name, package.version, outcome)
        loaded.statistics.record_failure(seconds)


def _microseconds(seconds: float) -> float:
    return round(seconds * 1e6, 1)
