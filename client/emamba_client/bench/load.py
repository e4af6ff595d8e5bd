"""Closed and open loops: who sends when, and what is measured.

In an open loop every request has its time in a schedule that does not wait for answers, and its
latency counts from that time: a request that is sent late because the service is slow is slow
itself (no coordinated omission). In a closed loop each connection waits for its answer before it
sends again, as a program that asks one thing after the other does; the waiting of requests that it
would have sent meanwhile is in no figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from emamba_client._wire import check_status, member, stages_of
from emamba_client.errors import ClientError, ServiceError
from emamba_client.histogram import Histogram

__all__ = ["Load", "Measured", "Plan", "Request", "due_times"]

Arrivals = Literal["constant", "poisson"]
# Single times kept for the plot; beyond, every second one, then every fourth, and so on.
_MOST_KEPT = 10_000


@dataclass(frozen=True)
class Request:
    """What is posted, and how its answer tells the service's times."""

    path: str
    headers: Mapping[str, str]
    bodies: tuple[bytes, ...]
    frames: int


@dataclass(frozen=True)
class Plan:
    """`rate_hz` of None is a closed loop. Times before `warmup_s` are not counted. An answer after
    `deadline_s` is late."""

    connections: int
    seconds: float
    warmup_s: float
    rate_hz: float | None = None
    arrivals: Arrivals = "constant"
    seed: int = 0
    deadline_s: float | None = None


@dataclass
class Measured:
    """What has come of the requests after the warm-up."""

    latency: Histogram = field(default_factory=Histogram)
    sent: int = 0
    answered: int = 0
    late: int = 0
    unsent: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    stages_us: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    span_s: float = 0.0
    # Seconds since the start, and the latency, of a share of the answers.
    points: list[tuple[float, float]] = field(default_factory=list)
    _stride: int = 1

    def add(self, at_s: float, latency_s: float, deadline_s: float | None) -> None:
        """One more answer."""
        self.answered += 1
        self.latency.add(latency_s)
        self.late += deadline_s is not None and latency_s > deadline_s
        if self.answered % self._stride == 0:
            self.points.append((at_s, latency_s))
        if len(self.points) >= _MOST_KEPT:
            self.points = self.points[::2]
            self._stride *= 2


def due_times(rate_hz: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Seconds after the start at which requests are due, without end."""
    source = random.Random(seed)
    due_s = 0.0
    while True:
        yield due_s
        due_s += source.expovariate(rate_hz) if arrivals == "poisson" else 1 / rate_hz


class Load:
    """One run of `plan`; `measured` is right at any time, whatever ends the run.

    The loader's own processor time is in `cpu_s`: where it nears `measured.span_s`, the run has
    measured the loader.
    """

    def __init__(
        self,
        plan: Plan,
        request: Request,
        options: Mapping[str, Any],
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.measured = Measured()
        self.cpu_s = 0.0
        self._plan = plan
        self._request = request
        self._options = options
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._start_s = 0.0
        self._next = 0

    async def run(self) -> None:
        """Send until the time is over, and wait for the answers."""
        plan = self._plan
        limits = httpx.Limits(max_connections=plan.connections)
        due = None
        if plan.rate_hz is not None:
            due = due_times(plan.rate_hz, plan.arrivals, plan.seed)
        async with httpx.AsyncClient(limits=limits, **self._options) as http:
            self._start_s = self._clock()
            cpu_s = self._cpu_clock()
            try:
                senders = (self._send_all(http, due) for _ in range(plan.connections))
                await asyncio.gather(*senders)
            finally:
                self.cpu_s = self._cpu_clock() - cpu_s
                now_s = self._clock() - self._start_s
                self.measured.span_s = max(0.0, now_s - plan.warmup_s)
                if due is not None:
                    self.measured.unsent += sum(1 for _ in _until(due, min(now_s, self._end_s)))

    @property
    def _end_s(self) -> float:
        return self._plan.warmup_s + self._plan.seconds

    async def _send_all(self, http: httpx.AsyncClient, due: Iterator[float] | None) -> None:
        """One connection: takes the schedule's next request whenever it is free."""
        while (now_s := self._clock() - self._start_s) < self._end_s:
            due_s = now_s if due is None else next(due)
            if due_s >= self._end_s:
                return
            if due_s > now_s:
                await asyncio.sleep(due_s - now_s)
            await self._send(http, due_s)

    async def _send(self, http: httpx.AsyncClient, due_s: float) -> None:
        request, measured = self._request, self.measured
        body = request.bodies[self._next % len(request.bodies)]
        self._next += 1
        counts = due_s >= self._plan.warmup_s
        measured.sent += counts
        try:
            answer = await http.post(request.path, content=body, headers=request.headers)
            latency_s = self._clock() - self._start_s - due_s
            check_status(answer)
        except ServiceError as error:
            measured.refused[f"{error.problem.status} {error.problem.title}"] += counts
        except (httpx.HTTPError, ClientError) as error:
            measured.failed[type(error).__name__] += counts
        else:
            if counts:
                measured.add(due_s - self._plan.warmup_s, latency_s, self._plan.deadline_s)
                self._tell(answer)

    def _tell(self, answer: httpx.Response) -> None:
        """Who computed an answer, and in what time."""
        measured = self.measured
        if "emamba-engine" in answer.headers:
            measured.engines[answer.headers["emamba-engine"]] += 1
            model = f"{answer.headers['emamba-model']} {answer.headers['emamba-version']}"
            measured.models[model] += 1
            for stage, milliseconds in _server_timing(answer.headers.get("server-timing", "")):
                measured.stages_us[stage] += 1000 * milliseconds
            return
        with contextlib.suppress(ClientError, ValueError):
            document = answer.json()
            measured.engines[member(document, "engine", str)] += 1
            measured.models[f"{member(document, 'model', str)} {document['version']}"] += 1
            for stage, us in stages_of(member(document, "timing_us", dict))[0].items():
                measured.stages_us[stage] += us


def _until(due: Iterator[float], end_s: float) -> Iterator[float]:
    for due_s in due:
        if due_s >= end_s:
            return
        yield due_s


def _server_timing(header: str) -> Iterator[tuple[str, float]]:
    """Names and milliseconds of a Server-Timing header."""
    for entry in header.split(","):
        name, _, rest = entry.strip().partition(";dur=")
        if rest:
            yield name, float(rest)
