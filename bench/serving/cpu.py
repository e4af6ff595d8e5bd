"""Processor time of one request: the service beside bare servers that answer as many bytes.

The service's engine computes nothing and runs in a process of its own, as the product's does; both
processes count. Everything takes turns, round by round; of the rounds the median counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.serving import processes
from bench.serving.cases import CASES, Case, frames
from bench.serving.echo import KINDS
from bench.serving.load import Load, run
from bench.serving.processes import Server, running
from bench.serving.wrk import Rate, wrk

__all__ = ["CONNECTIONS", "measure"]

CONNECTIONS = (1, 32)
BASE = "echo fastapi"
Row = dict[str, Any]


@dataclass(frozen=True)
class _Contender:
    name: str
    server: Server
    case: Case


def measure(rounds: int, seconds: int, say: Callable[[str], None]) -> list[Row]:
    """A row for each case, server and number of connections."""
    given = frames()
    with ExitStack() as stack:
        serve = partial(_start, stack)
        services = {
            "service": serve("service", processes.null()),
            "service, engine in a thread": serve("thread", processes.null("--room", "thread")),
            "service, no metrics": serve("no metrics", processes.null("--no-metrics")),
        }
        rows: list[Row] = []
        for make in CASES:
            case = make(given)
            contenders = [_Contender(name, one, case) for name, one in services.items()]
            with ExitStack() as own:
                contenders += _echoes(own, case, _answer_bytes(services["service"], case))
                for connections in CONNECTIONS:
                    say(f"processor time: {case.name}, {connections} connections")
                    rows += _race(contenders, connections, rounds, seconds)
    return rows


def _start(stack: ExitStack, name: str, command: Sequence[str]) -> Server:
    return stack.enter_context(running(name, command))


def _echoes(stack: ExitStack, case: Case, answer_bytes: int) -> Iterator[_Contender]:
    for kind in KINDS:
        server = _start(stack, kind, processes.echo(kind, answer_bytes))
        yield _Contender(f"echo {kind}", server, case)


def _answer_bytes(server: Server, case: Case) -> int:
    """The length of an answer's body; also the first, slow requests of a process."""
    outcome = run(Load(server.port, case, connections=1, seconds=1.0))
    return outcome.body_bytes


def _race(
    contenders: Sequence[_Contender], connections: int, rounds: int, seconds: int
) -> Iterator[Row]:
    found: dict[str, list[Rate]] = {one.name: [] for one in contenders}
    for one in contenders:
        wrk(one.server, one.case, connections, 1)
    for _ in range(rounds):
        for one in contenders:
            found[one.name].append(wrk(one.server, one.case, connections, seconds))
    for one in contenders:
        yield _row(one, connections, found)


def _row(one: _Contender, connections: int, found: dict[str, list[Rate]]) -> Row:
    """Medians over the rounds; the ratio is each round's own, so that drift cancels."""
    rates = found[one.name]
    ratios = [rate.cpu_us / base.cpu_us for rate, base in zip(rates, found[BASE], strict=True)]
    return {
        "case": one.case.name,
        "connections": connections,
        "server": one.name,
        "cpu_us": round(statistics.median(rate.cpu_us for rate in rates), 1),
        "main_us": round(statistics.median(rate.main_us for rate in rates), 1),
        "engine_process_us": round(statistics.median(rate.children_us for rate in rates), 1),
        "ratio_to_echo": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "requests_per_s": round(statistics.median(rate.requests_per_s for rate in rates)),
    }
