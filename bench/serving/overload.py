"""Five times as many requests as the service can answer: how many it still answers in time.

The server, engine process included, has one core and the generator the other, so that neither takes
from the other what is measured. Arrivals are a Poisson process whose times are fixed beforehand; a
latency counts from there. A request that finds every connection waiting is turned away by its
client. Clients that are refused either rest for as long as Retry-After says, or ask again at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.serving.cases import frames, oip_binary
from bench.serving.load import Load, Outcome, run
from bench.serving.processes import null, product, running
from bench.serving.schedule import percentile_s

__all__ = ["measure"]

FACTOR = 5
DEADLINE_S = 0.5
CLOSED_CONNECTIONS = 64
OPEN_CONNECTIONS = 512
# Longer than the generator is late.
TURNED_AWAY_S = 0.005
SERVER_CORE, CLIENT_CORE = 0, 1


@dataclass(frozen=True)
class _Server:
    name: str
    command: Sequence[str]


SERVERS = (
    _Server("engine native", product("--engine", "native")),
    _Server("1 ms a batch of up to 64", null("--busy-us", "1000")),
    _Server("1 ms a frame", null("--busy-us", "1000", "--", "--max-batch", "1")),
)


def measure(seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """A row for each server; raises `ValueError` on a machine of one core."""
    if len(os.sched_getaffinity(0)) < 2:
        raise ValueError("overload needs 2 cores: one for the server, one for the generator")
    rows: list[dict[str, Any]] = []
    for server in SERVERS:
        say(f"overload: {server.name}")
        rows += _rows(server, seconds)
    return {
        "factor": FACTOR,
        "deadline_ms": 1e3 * DEADLINE_S,
        "connections": OPEN_CONNECTIONS,
        "rows": rows,
    }


def _rows(server: _Server, seconds: float) -> Iterator[dict[str, Any]]:
    case = oip_binary(frames(), timeout_us=int(1e6 * DEADLINE_S))
    if "bench.serving.null_server" in server.command:
        # What computes nothing answers nothing in particular.
        case = replace(case, expected=(b"",) * len(case.requests))
    with running(server.name, server.command, core=SERVER_CORE) as one:
        closed = Load(one.port, case, CLOSED_CONNECTIONS, seconds, core=CLIENT_CORE)
        run(replace(closed, seconds=1.0))
        before_per_s = run(closed).good_per_s
        for rests in (True, False):
            loaded = run(_overload(closed, before_per_s, rests))
            after_per_s = run(closed).good_per_s
            capacity_per_s = (before_per_s + after_per_s) / 2
            before_per_s = after_per_s
            yield {
                "server": server.name,
                "refused_clients": "rest as Retry-After says" if rests else "ask again at once",
                "capacity_per_s": round(capacity_per_s, 1),
                **_judged(loaded, capacity_per_s),
            }


def _overload(closed: Load, capacity_per_s: float, rests: bool) -> Load:
    return replace(
        closed,
        connections=OPEN_CONNECTIONS,
        rate_per_s=FACTOR * capacity_per_s,
        give_up_s=TURNED_AWAY_S,
        retries_after=rests,
    )


def _judged(loaded: Outcome, capacity_per_s: float) -> dict[str, Any]:
    in_time_per_s = loaded.within(DEADLINE_S) / loaded.wall_s
    offered = loaded.sent + loaded.given_up
    return {
        "offered_per_s": round(offered / loaded.wall_s, 1),
        "reached_server_share": round(loaded.sent / offered, 3),
        "goodput_per_s": round(in_time_per_s, 1),
        "goodput_of_capacity": round(in_time_per_s / capacity_per_s, 3),
        "accepted_p99_ms": round(1e3 * percentile_s(loaded.good_s, 99), 2),
        "accepted_late": len(loaded.good_s) - loaded.within(DEADLINE_S),
        **loaded.to_json(),
    }
