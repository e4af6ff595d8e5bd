"""wrk, the closed-loop generator that takes least of the machine it shares with the server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.serving.cases import Case
from bench.serving.processes import Server

__all__ = ["Rate", "WrkError", "find", "wrk"]

SCRIPT = Path(__file__).with_name("post.lua")


class WrkError(Exception):
    """wrk is missing, or some of its requests failed."""


@dataclass(frozen=True)
class Rate:
    """What wrk counted, and the processor microseconds of one request in the server meanwhile."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    main_us: float
    children_us: float

    @property
    def cpu_us(self) -> float:
        """Of all the server's processes."""
        return self.main_us + self.children_us


def find() -> str:
    """wrk's path; raises `WrkError`."""
    path = shutil.which("wrk")
    if path is None:
        raise WrkError("wrk must be installed: apt-get install wrk")
    return path


def wrk(server: Server, case: Case, connections: int, seconds: int) -> Rate:
    """Ask for `case` on so many connections, one thread; raises `WrkError` for a failed request."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"%d " % len(case.requests))
        file.writelines(b"%d %b" % (len(one), one) for one in case.requests)
        file.flush()
        before_s = server.cpu_s()
        url = f"http://127.0.0.1:{server.port}{case.path}"
        command = [find(), "-t1", f"-c{connections}", f"-d{seconds}", "--latency"]
        finished = subprocess.run(
            [*command, "-s", str(SCRIPT), url, "--", file.name],
            check=True,
            capture_output=True,
            text=True,
        )
        after_s = server.cpu_s()
    counted = json.loads(finished.stdout.splitlines()[-1])
    if counted["not_2xx"] or counted["failed"]:
        raise WrkError(
            f"every request for {case.name} must be answered 200, but wrk says {counted}"
        )
    requests = counted["requests"]
    main_us, children_us = (
        1e6 * (after - before) / requests for after, before in zip(after_s, before_s, strict=True)
    )
    return Rate(
        1e6 * requests / counted["duration_us"],
        counted["p50_us"] / 1e3,
        counted["p99_us"] / 1e3,
        main_us,
        children_us,
    )
