"""Servers as processes, with their processor time and memory as the kernel counts them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

__all__ = ["Server", "ServerError", "echo", "null", "product", "running"]

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_CLI = "from emamba_service.cli import main; main()"


class ServerError(Exception):
    """A server that does not start; the message holds its last lines."""


@dataclass
class Server:
    """A running server: its own process, and its children, where the engines are."""

    name: str
    process: subprocess.Popen[str]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def children(self) -> list[int]:
        """The process's children now, in the order of their start."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/children")
        return sorted(int(pid) for task in tasks for pid in task.read_text().split())

    def cpu_s(self) -> tuple[float, float]:
        """Processor seconds, user and system, of the main process and of its children together."""
        return _cpu_s(self.pid), sum(map(_cpu_s, self.children))

    def memory_bytes(self) -> dict[str, int]:
        """Resident and proportional memory of the main process (`main`) and of its children."""
        children = self.children
        return {
            "main_rss": _smaps(self.pid, "Rss"),
            "main_pss": _smaps(self.pid, "Pss"),
            "children_rss": sum(_smaps(pid, "Rss") for pid in children),
            "children_pss": sum(_smaps(pid, "Pss") for pid in children),
        }


@contextmanager
def running(
    name: str,
    command: Sequence[str],
    core: int | None = None,
    port: int | None = None,
    ready: str = "/health/ready",
) -> Iterator[Server]:
    """Start `command`, which prints a line that ends in its URL or port; stop it in the end.

    One that is told its `port` need not say it: it has started once it answers `ready` with 200.
    `core` pins it and its children to a processor. Raises `ServerError`.
    """
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*pinned, *command],
            cwd=ROOT,
            stdout=subprocess.PIPE if port is None else log,
            stderr=log,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        try:
            if port is None:
                yield Server(name, process, _printed_port(name, process, log))
            else:
                _wait_until_ready(name, process, port, ready, log)
                yield Server(name, process, port)
        finally:
            _stop(process)


def product(*options: str) -> list[str]:
    """The service's own command on a free port."""
    return [sys.executable, "-c", _CLI, "--port", "0", "--log-level", "error", *options]


def null(*options: str) -> list[str]:
    """The service with an engine that computes nothing."""
    return [sys.executable, "-m", "bench.serving.null_server", *options]


def echo(kind: str, answer_bytes: int) -> list[str]:
    """A bare server that reads a body and answers so many bytes."""
    return [sys.executable, "-m", "bench.serving.echo", kind, str(answer_bytes)]


def _printed_port(name: str, process: subprocess.Popen[str], log: IO[str]) -> int:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    if not words:
        raise _failure(name, process, log)
    return int(words[-1]) if words[-1].isdigit() else int(urlsplit(words[-1]).port or 80)


def _wait_until_ready(
    name: str, process: subprocess.Popen[str], port: int, ready: str, log: IO[str]
) -> None:
    deadline_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", ready)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise _failure(name, process, log)


def _failure(name: str, process: subprocess.Popen[str], log: IO[str]) -> ServerError:
    _stop(process)
    log.seek(0)
    return ServerError(f"{name} must start, but says: {log.read()[-2000:]}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _cpu_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0.0
    # The name in brackets may hold anything.
    user, system = text.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * _TICK_S


def _smaps(pid: int, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)
