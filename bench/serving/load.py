"""A load generator for HTTP/1.1: closed loop, or open loop at a given rate.

Closed: each connection sends its next request when it has its answer. Open: requests have intended
times, and a latency counts from there, also where no connection was free or the generator itself
was late, so that a server that stalls is charged for every request that it held up. Runs in a
process of its own. Percentiles come of all samples.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from array import array
from collections import Counter, deque
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Any

import numpy as np
import uvloop
from bench.serving.cases import Case
from bench.serving.schedule import Arrivals, Floats, arrivals_s, percentile_s, summary_ms

__all__ = ["Load", "Outcome", "run", "start"]

SWEEP_S = 0.25
SENTENCES = 32
_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length: "
_RETRY_AFTER = b"\r\nretry-after: "


@dataclass(frozen=True)
class Load:
    """What to send. Closed loop without `rate_per_s`.

    A request that has found no connection `give_up_s` after its intended time is not sent. One
    without an answer for `hang_s` counts as hung. Where `retries_after`, a connection rests for as
    long as an answer's Retry-After says. `core` pins the generator to a processor.
    """

    port: int
    case: Case
    connections: int
    seconds: float
    rate_per_s: float | None = None
    arrivals: Arrivals = "poisson"
    give_up_s: float | None = None
    hang_s: float = 30.0
    retries_after: bool = False
    core: int | None = None
    seed: int = 0


@dataclass
class Outcome:
    """What came back. Latencies in seconds, by status, from the intended time on.

    `wrong`: answers of status 200 without the bytes expected; `lost`: the connection ended in place
    of an answer; `hung`: no answer in time; `given_up`: never sent. `late_s`: how late the
    generator looked at a request whose time had come. `body_bytes`: length of the last body.
    `errors`: bodies of other statuses.
    """

    wall_s: float = 0.0
    cpu_s: float = 0.0
    sent: int = 0
    wrong: int = 0
    lost: int = 0
    hung: int = 0
    given_up: int = 0
    body_bytes: int = 0
    latencies_s: dict[int, Floats] = field(default_factory=dict)
    late_s: Floats = field(default_factory=lambda: np.zeros(0))
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def answered(self) -> int:
        """Answers of any status."""
        return sum(map(len, self.latencies_s.values()))

    @property
    def good_s(self) -> Floats:
        """Latencies of the answers of status 200."""
        return self.latencies_s.get(200, np.zeros(0))

    @property
    def good_per_s(self) -> float:
        """Answers of status 200 in a second."""
        return len(self.good_s) / self.wall_s

    def within(self, deadline_s: float) -> int:
        """Answers of status 200 within `deadline_s` of their intended time."""
        return int((self.good_s <= deadline_s).sum())

    def to_json(self) -> dict[str, Any]:
        """Everything, latencies as percentiles."""
        late = {}
        if len(self.late_s):
            late = {"late_p99_ms": round(1e3 * percentile_s(self.late_s, 99), 3)}
        return {
            "seconds": round(self.wall_s, 2),
            "sent": self.sent,
            "statuses": {str(status): len(s) for status, s in sorted(self.latencies_s.items())},
            **{name: getattr(self, name) for name in ("wrong", "lost", "hung", "given_up")},
            "requests_per_s": round(self.answered / self.wall_s, 1),
            "latency_ms": {str(s): summary_ms(one) for s, one in sorted(self.latencies_s.items())},
            "client_cores": round(self.cpu_s / self.wall_s, 2),
            **late,
            "errors": self.errors,
        }


def start(load: Load) -> Future[Outcome]:
    """Begin `load` in a process of its own."""
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    future = pool.submit(_measured, load)
    pool.shutdown(wait=False)
    return future


def run(load: Load) -> Outcome:
    """`load` in a process of its own, until it has ended."""
    return start(load).result()


def _measured(load: Load) -> Outcome:
    if load.core is not None:
        os.sched_setaffinity(0, {load.core})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 65536)), hard))
    return uvloop.run(_Generator(load).run())


class _Generator:
    """Sends on its connections and keeps the count."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.outcome = Outcome()
        self.stopped = False
        self._latencies: dict[int, array[float]] = {}
        self._errors: Counter[str] = Counter()
        self._open: set[_Connection] = set()
        self._idle: deque[_Connection] = deque()
        self._backlog: deque[float] = deque()
        self._number = 0
        self._busy: set[_Connection] = set()
        self._is_closed_loop = False

    async def run(self) -> Outcome:
        await asyncio.gather(*(self.connect() for _ in range(self.load.connections)))
        sweeping = asyncio.create_task(self._sweep())
        cpu_s, begun_s = time.process_time(), time.perf_counter()
        if self.load.rate_per_s is None:
            await self._closed_loop(begun_s)
        else:
            await self._open_loop(begun_s, self.load.rate_per_s)
        outcome = self.outcome
        outcome.wall_s = time.perf_counter() - begun_s
        outcome.cpu_s = time.process_time() - cpu_s
        self.stopped = True
        await self._finish()
        sweeping.cancel()
        outcome.latencies_s = {s: np.array(one) for s, one in self._latencies.items()}
        outcome.errors = dict(self._errors)
        return outcome

    async def connect(self) -> None:
        """One more idle connection; tries again where it is refused, until the end."""
        while not self.stopped:
            try:
                await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self), "127.0.0.1", self.load.port
                )
                return
            except OSError:
                await asyncio.sleep(0.05)

    async def _closed_loop(self, begun_s: float) -> None:
        self._is_closed_loop = True
        while self._idle:
            self._send(self._idle.popleft(), time.perf_counter())
        await asyncio.sleep(begun_s + self.load.seconds - time.perf_counter())

    async def _open_loop(self, begun_s: float, rate_per_s: float) -> None:
        load = self.load
        due_s = (begun_s + arrivals_s(rate_per_s, load.seconds, load.arrivals, load.seed)).tolist()
        late_s = array("d")
        at = 0
        while at < len(due_s):
            now_s = time.perf_counter()
            while at < len(due_s) and due_s[at] <= now_s:
                late_s.append(now_s - due_s[at])
                self._backlog.append(due_s[at])
                at += 1
            while self._idle and self._next(self._idle[0]):
                self._idle.popleft()
            if at < len(due_s):
                # Timers are no finer than a millisecond; a processor of its own may as well look.
                pause_s = due_s[at] - time.perf_counter() if load.core is None else 0.0
                await asyncio.sleep(max(0.0, pause_s))
        self.outcome.late_s = np.array(late_s)
        await asyncio.sleep(max(0.0, begun_s + load.seconds - time.perf_counter()))

    async def _finish(self) -> None:
        """Wait for what is under way; what then still waits to be sent is given up."""
        deadline_s = time.perf_counter() + self.load.hang_s + 2 * SWEEP_S
        give_up_s = self.load.give_up_s
        while (self._busy or (self._backlog and give_up_s is None)) and (
            time.perf_counter() < deadline_s
        ):
            await asyncio.sleep(0.01)
        self.outcome.given_up += len(self._backlog)
        self._backlog.clear()
        for connection in self._open.copy():
            connection.close()

    def _next(self, connection: _Connection) -> bool:
        """Send what has waited longest on `connection`; whether there was anything."""
        give_up_s = self.load.give_up_s
        while self._backlog:
            intended_s = self._backlog.popleft()
            if give_up_s is not None and time.perf_counter() - intended_s > give_up_s:
                self.outcome.given_up += 1
                continue
            self._send(connection, intended_s)
            return True
        return False

    def _send(self, connection: _Connection, intended_s: float) -> None:
        case = self.load.case
        number = self._number = (self._number + 1) % len(case.requests)
        self._busy.add(connection)
        self.outcome.sent += 1
        connection.send(case.requests[number], case.expected[number], intended_s)

    def opened(self, connection: _Connection) -> None:
        """`connection` is there."""
        self._open.add(connection)
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """`connection` has its answer and has rested, or is new."""
        if connection.is_lost:
            return
        if self._is_closed_loop and not self.stopped:
            self._send(connection, time.perf_counter())
        elif not self._next(connection):
            self._idle.append(connection)

    def answered(self, connection: _Connection, status: int, head: bytes, body: bytes) -> None:
        """An answer is whole; answers after the end count only where requests had a time."""
        self._busy.discard(connection)
        if not self.stopped or self.load.rate_per_s is not None:
            latency_s = time.perf_counter() - connection.intended_s
            self._latencies.setdefault(status, array("d")).append(latency_s)
            self.outcome.body_bytes = len(body)
            if status == 200:
                self.outcome.wrong += connection.expected not in body
            else:
                self._note(status, body)
        if self.load.retries_after and (rest_s := _number(head, _RETRY_AFTER)):
            asyncio.get_running_loop().call_later(rest_s, self.free, connection)
        else:
            self.free(connection)

    def ended(self, connection: _Connection, was_busy: bool) -> None:
        """The server has closed `connection`, or it was given up."""
        self._open.discard(connection)
        self._busy.discard(connection)
        with suppress(ValueError):
            self._idle.remove(connection)
        if not self.stopped:
            self.outcome.lost += was_busy
            self._connecting = asyncio.ensure_future(self.connect())
        elif self.load.rate_per_s is not None:
            self.outcome.lost += was_busy

    def _note(self, status: int, body: bytes) -> None:
        text = f"{status} {body[:200].decode(errors='replace')}"
        if text not in self._errors and len(self._errors) >= SENTENCES:
            text = "others"
        self._errors[text] += 1

    async def _sweep(self) -> None:
        """Give up connections whose answer does not come."""
        while True:
            await asyncio.sleep(SWEEP_S)
            oldest_s = time.perf_counter() - self.load.hang_s
            for connection in [one for one in self._busy if one.sent_s < oldest_s]:
                self.outcome.hung += 1
                connection.close()
                self.ended(connection, False)


class _Connection(asyncio.Protocol):
    """One request at a time; reads no more of an answer than status, length and body."""

    def __init__(self, generator: _Generator) -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._busy = False
        self._given_up = False
        self.is_lost = False
        self.expected = b""
        self.intended_s = self.sent_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._generator.opened(self)

    def send(self, request: bytes, expected: bytes, intended_s: float) -> None:
        assert self._transport is not None
        self._busy = True
        self.expected, self.intended_s = expected, intended_s
        self.sent_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        head = data.find(_END)
        begin = head + len(_END)
        end = begin + (_number(data[:begin], _LENGTH) or 0)
        if head < 0 or len(data) < end:
            self._rest = data
            return
        self._rest = b""
        self._busy = False
        self._generator.answered(self, int(data[9:12]), data[:begin], data[begin:end])

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if not self._given_up:
            self._generator.ended(self, self._busy)

    def close(self) -> None:
        """Close without a further word to the generator."""
        self._given_up = self.is_lost = True
        assert self._transport is not None
        self._transport.abort()


def _number(head: bytes, name: bytes) -> int | None:
    """The number that a header of an answer holds; `name` as the servers here write it."""
    at = head.find(name)
    return None if at < 0 else int(head[at + len(name) : head.find(b"\r", at + 2)])
