"""What is lost when one of three boards behind HAProxy fails under load.

Three servers on this machine with the native engine, HAProxy in front of them, one client process
on many connections. A third of the way one server is killed (SIGKILL), stopped (SIGTERM) or frozen
(SIGSTOP), and at two thirds it is back. Our configuration beside HAProxy's own defaults, and beside
ours without one option at a time.

    .venv/bin/python -m bench.fleet [--seconds 30] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.deploy.fleet_load import (
    POSE_BYTES,
    HaProxy,
    Load,
    Server,
    free_port,
    oip_request,
    wait_for,
)

from emamba_service.fleet import Board, Proxy, haproxy_config

CLIENTS = 32
FAULTS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM, "freeze": signal.SIGSTOP}
# Beginnings of lines of our configuration.
LEFT_OUT = ("option http-buffer-request", "retry-on", "default-server observe")


@dataclass(frozen=True)
class Case:
    """One configuration and one fault; `without` is a line that is left out of ours."""

    name: str
    fault: str
    without: str | None = None
    ours: bool = True


def main() -> None:
    """Measure every case and print a table, or write JSON as well."""
    parser = argparse.ArgumentParser(description="Lost requests of a fleet whose board fails.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load for each case")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if haproxy is None:
        parser.error("needs haproxy, of Debian's package haproxy")
    cases = [
        *(Case("HAProxy's defaults", fault, ours=False) for fault in FAULTS),
        *(Case("deploy/fleet", fault) for fault in FAULTS),
        *(Case(f"deploy/fleet without {line}", "kill", without=line) for line in LEFT_OUT),
    ]
    results = []
    with servers() as three:
        for case in cases:
            results.append(measure(case, three, haproxy, options.seconds))
            print(row(results[-1]), flush=True)
    if options.json:
        version = subprocess.run([haproxy, "-v"], capture_output=True, text=True, check=True)
        document = {
            "command": f"python -m bench.fleet --seconds {options.seconds:g}",
            "haproxy": version.stdout.splitlines()[0],
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
            "clients": CLIENTS,
            "boards": 3,
            "cases": results,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


@contextmanager
def servers() -> Iterator[list[Server]]:
    """Three servers, the engines of which are compiled."""
    three = [Server(f"board-{index}", "native") for index in range(3)]
    with ExitStack() as stack:
        for server in three:
            stack.callback(server.kill)
            server.start()
        yield three


def measure(case: Case, three: list[Server], haproxy: str, seconds: float) -> dict[str, Any]:
    """One case, with every server in use at its beginning."""
    port, status = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = configuration(case, three, port, status, Path(folder))
        proxy = HaProxy(haproxy, config, port, status, Path(folder) / "haproxy.log")
        stack.callback(proxy.kill)
        wait_for(lambda: set(proxy.states().values()) == {"UP"}, "every board")
        # HAProxy takes servers for up until its first checks.
        time.sleep(2)
        return asyncio.run(under_load(case, three[0], proxy, seconds))


async def under_load(case: Case, victim: Server, proxy: HaProxy, seconds: float) -> dict[str, Any]:
    """Load, fault at a third, return at two thirds."""
    loop = asyncio.get_running_loop()
    times: dict[str, float] = {}
    loop.call_later(seconds / 3, partial(fail, victim, FAULTS[case.fault], times))
    loop.call_later(seconds * 2 / 3, partial(come_back, victim, case.fault, times))
    watcher = asyncio.create_task(watch(victim, proxy, times))
    tally = await Load(proxy.port, *oip_request(), POSE_BYTES).run(CLIENTS, seconds)
    watcher.cancel()
    wait_for(lambda: set(proxy.states().values()) == {"UP"}, "every board again")
    return {
        "configuration": case.name,
        "fault": case.fault,
        "requests": tally.total,
        "lost": tally.lost,
        "lost_percent": round(100 * tally.lost / tally.total, 4),
        "lost_by_reason": dict(tally.failed),
        "slowest_s": round(tally.slowest_s, 3),
        "down_after_s": round(times["down"] - times["failed"], 2) if "down" in times else None,
        "requests_per_s": round(tally.total / seconds),
    }


def fail(victim: Server, number: signal.Signals, times: dict[str, float]) -> None:
    victim.signal(number)
    times["failed"] = time.monotonic()


def come_back(victim: Server, fault: str, times: dict[str, float]) -> None:
    times["back"] = time.monotonic()
    if fault == "freeze":
        victim.signal(signal.SIGCONT)
    else:
        victim.start()


async def watch(victim: Server, proxy: HaProxy, times: dict[str, float]) -> None:
    """Note when the proxy has marked the failed server down."""
    while "down" not in times:
        await asyncio.sleep(0.05)
        states = await asyncio.to_thread(proxy.states)
        if "failed" in times and states.get(victim.name, "").startswith("DOWN"):
            times["down"] = time.monotonic()


def configuration(
    case: Case, three: list[Server], port: int, status_port: int, folder: Path
) -> str:
    boards = [Board(server.name, "127.0.0.1", server.port) for server in three]
    proxy = Proxy(
        f"127.0.0.1:{port}",
        f"127.0.0.1:{status_port}",
        f"127.0.0.1:{free_port()}",
        folder / "admin.sock",
    )
    if not case.ours:
        return defaults(boards, proxy)
    lines = haproxy_config(boards, proxy, case.name).splitlines(keepends=True)
    kept = [
        line for line in lines if case.without is None or not line.strip().startswith(case.without)
    ]
    assert len(lines) - len(kept) == (case.without is not None)
    return "".join(kept)


def defaults(boards: list[Board], proxy: Proxy) -> str:
    """What one writes first: leastconn and a health check, the rest as HAProxy has it."""
    listed = "".join(f"    server {board.name} {board.address} check\n" for board in boards)
    return f"""\
defaults
    mode http
    timeout connect 1s
    timeout client 30s
    timeout server 11s
frontend fleet
    bind {proxy.bind}
    default_backend boards
backend boards
    balance leastconn
    option httpchk GET /v2/health/ready
{listed}frontend status
    bind {proxy.status}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    stats enable
    stats uri /
"""


def row(result: dict[str, Any]) -> str:
    return (
        f"{result['configuration']:<50} {result['fault']:<7} lost {result['lost']:>6} of "
        f"{result['requests']:>7} ({result['lost_percent']} %), slowest {result['slowest_s']} s, "
        f"down after {result['down_after_s']} s"
    )


if __name__ == "__main__":
    main()
