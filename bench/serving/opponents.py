"""Requests a second of the service and of MLServer with the same model and frames, interleaved.

Each of MLServer's ways of serving is tried in each of its protocols; its fastest counts. The
service runs as it is shipped, shadow checks included. Clients share the machine's cores with the
servers.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.serving.cases import CASES, Frames, frames
from bench.serving.mlserver import VERSION, WAYS, MlServer, grpc_rate, serving
from bench.serving.onnx_model import export
from bench.serving.processes import product, running
from bench.serving.wrk import Rate, wrk

__all__ = ["measure"]

CONNECTIONS = 32
OURS = "service"
HEADLINE = "OIP binary"


@dataclass(frozen=True)
class _Contender:
    server: str
    protocol: str
    run: Callable[[int], Rate]


def measure(rounds: int, seconds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """A row for each server, way and protocol; how many times the fastest of MLServer's ours is."""
    given = frames()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        model = Path(folder) / "mars.onnx"
        floats = export(model, given)
        service = stack.enter_context(running(OURS, product("--engine", "native")))
        contenders = [
            _Contender(OURS, case.name, partial(wrk, service, case, CONNECTIONS))
            for case in (make(given) for make in CASES)
        ]
        for index, way in enumerate(WAYS):
            own = Path(folder) / str(index)
            own.mkdir()
            contenders += _of(stack.enter_context(serving(way, model, own)), floats)
        found: dict[_Contender, list[Rate]] = {one: [] for one in contenders}
        for number in range(rounds + 1):
            say(f"requests a second: round {number} of {rounds}")
            for one in contenders:
                rate = one.run(seconds if number else 1)
                # The first is for warming up.
                found[one] += [rate] if number else []
    difference_m = float(abs(floats.joints - given.joints).mean())
    return {"joints_differ_by_mean_m": round(difference_m, 4), **_report(found)}


def _of(one: MlServer, given: Frames) -> list[_Contender]:
    name = f"MLServer {VERSION}, {one.way.name}"
    json_case = next(case for case in (make(given) for make in CASES) if case.name == "OIP JSON")
    return [
        _Contender(name, "REST JSON", partial(wrk, one.server, json_case, CONNECTIONS)),
        *(
            _Contender(
                name,
                f"gRPC {form}, {channels} connections",
                partial(grpc_rate, one, given, form, CONNECTIONS, channels),
            )
            for form, channels in (("raw", 1), ("raw", CONNECTIONS), ("typed", 1))
        ),
    ]


def _report(found: dict[_Contender, list[Rate]]) -> dict[str, Any]:
    def median(one: _Contender) -> float:
        return statistics.median(rate.requests_per_s for rate in found[one])

    theirs = max((one for one in found if one.server != OURS), key=median)
    ours = next(one for one in found if (one.server, one.protocol) == (OURS, HEADLINE))
    ratios = [
        mine.requests_per_s / other.requests_per_s
        for mine, other in zip(found[ours], found[theirs], strict=True)
    ]
    rows = [
        {
            "server": one.server,
            "protocol": one.protocol,
            "requests_per_s": round(median(one)),
            "service_is_times": round(median(ours) / median(one), 2),
            "p50_ms": round(statistics.median(rate.p50_ms for rate in rates), 2),
            "p99_ms": round(statistics.median(rate.p99_ms for rate in rates), 2),
            "cpu_us": round(statistics.median(rate.cpu_us for rate in rates), 1),
        }
        for one, rates in found.items()
    ]
    return {
        "connections": CONNECTIONS,
        "fastest_opponent": {"server": theirs.server, "protocol": theirs.protocol},
        "ratio": round(statistics.median(ratios), 2),
        "ratio_least": round(min(ratios), 2),
        "ratio_most": round(max(ratios), 2),
        "rows": rows,
    }
