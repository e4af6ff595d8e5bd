"""A fleet on this machine: servers, HAProxy in front of them, and load that counts what is lost."""

from __future__ import annotations

import asyncio
import csv
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

__all__ = [
    "POSE_BYTES",
    "HaProxy",
    "Load",
    "Server",
    "Tally",
    "free_port",
    "oip_request",
    "unprivileged",
    "wait_for",
]

ROOT = Path(__file__).resolve().parents[2]
POSE_BYTES = 228
_FRAME_BYTES = 1280
_PATIENCE_S = 60.0
# Between the tries of a client that was refused, so that a lost second is not a million losses.
_PAUSE_S = 0.005
# Long enough for two packets.
_BETWEEN_S = 0.001
_PRIVILEGED = (["chroot"], ["user"], ["group"])


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 60.0) -> float:
    """Seconds until `condition()` holds; raises `AssertionError` after `limit_s`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < limit_s, f"must come within {limit_s:g} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - begun


def oip_request(frames: int = 1) -> tuple[bytes, bytes]:
    """Head and body of an inference request of `frames` frames, as tritonclient sends it."""
    size = frames * _FRAME_BYTES
    tensor = {
        "name": "features",
        "shape": [frames, 8, 8, 5],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    output = {"name": "joints", "parameters": {"binary_data": True}}
    about = json.dumps({"inputs": [tensor], "outputs": [output]}).encode()
    body = about + bytes(size)
    head = (
        "POST /v2/models/mars/infer HTTP/1.1\r\nhost: fleet\r\n"
        "content-type: application/octet-stream\r\n"
        f"inference-header-content-length: {len(about)}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode(), body


@dataclass
class Tally:
    """What became of the requests of a load; `failed` counts by the reason."""

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    @property
    def lost(self) -> int:
        return self.failed.total()

    @property
    def total(self) -> int:
        return self.answered + self.lost


class Load:
    """Clients that send one request after the other, each on a connection of its own.

    Head and body go in two packets, as most clients send them. An answer counts if it is 200,
    whole, and ends in the same `answer_bytes` bytes as the first one.
    """

    def __init__(self, port: int, head: bytes, body: bytes, answer_bytes: int) -> None:
        self.tally = Tally()
        self._port = port
        self._head, self._body = head, body
        self._answer_bytes = answer_bytes
        self._expected: bytes | None = None
        self._stopped = False

    async def run(self, clients: int, seconds: float) -> Tally:
        """Send for so long; every request that was sent is answered or counted as lost."""
        asyncio.get_running_loop().call_later(seconds, self.stop)
        await asyncio.gather(*(self._client() for _ in range(clients)))
        return self.tally

    def stop(self) -> None:
        """Let each client's present request be its last."""
        self._stopped = True

    async def _client(self) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stopped:
            begun = time.perf_counter()
            try:
                if connection is None:
                    connection = await asyncio.open_connection("127.0.0.1", self._port)
                wrong = await asyncio.wait_for(self._request(*connection), _PATIENCE_S)
            except (OSError, EOFError, ValueError, asyncio.TimeoutError) as error:
                wrong = type(error).__name__
            self.tally.slowest_s = max(self.tally.slowest_s, time.perf_counter() - begun)
            if wrong is None:
                self.tally.answered += 1
                continue
            self.tally.failed[wrong] += 1
            if connection is not None:
                connection[1].close()
                connection = None
            await asyncio.sleep(_PAUSE_S)
        if connection is not None:
            connection[1].close()

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str | None:
        """Send and read; what is wrong with the answer, if anything."""
        writer.write(self._head)
        await asyncio.sleep(_BETWEEN_S)
        writer.write(self._body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        status = head.split(b" ", 2)[1].decode()
        if status != "200":
            return status
        answer = body[-self._answer_bytes :]
        if self._expected is None:
            self._expected = answer
        return None if answer == self._expected else "another answer"


class Server:
    """One `emamba-service`, on a port that it keeps when it is started again."""

    def __init__(self, name: str, engine: str, models: Path = ROOT / "tests" / "one_model") -> None:
        self.name, self.port = name, free_port()
        self._options = ["--models", str(models), "--engine", engine, "--port", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return at once; one that runs is ended."""
        self.kill()
        program = [sys.executable, "-c", "from emamba_service.cli import main; main()"]
        options = [*self._options, "--log-level", "error", "--power-interval-s", "0"]
        self._process = subprocess.Popen([*program, *options], stdout=subprocess.DEVNULL)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        return self._process.wait(30)

    def kill(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class HaProxy:
    """HAProxy with a configuration for this machine."""

    def __init__(self, program: str, config: str, port: int, status_port: int, log: Path) -> None:
        self.port = port
        self._status = f"http://127.0.0.1:{status_port}"
        path = log.with_suffix(".cfg")
        path.write_text(unprivileged(config))
        self._command = [program, "-db", "-f", str(path)]
        self._log = log
        self._process = self._start()

    def reload(self) -> None:
        """Put a new process in the old one's place, as `systemctl reload` does."""
        old = self._process
        self._process = self._start("-sf", str(old.pid))
        old.wait(30)

    def states(self, backend: str = "boards") -> dict[str, str]:
        """Each server's state, UP or DOWN and how near it is to the other; empty before it runs."""
        return {row["svname"]: row["status"] for row in self._rows(backend)}

    def requests(self, backend: str = "boards") -> dict[str, int]:
        """How many requests each server has had."""
        return {row["svname"]: int(row["stot"]) for row in self._rows(backend)}

    def metrics(self) -> str:
        """What Prometheus scrapes."""
        return _get(f"{self._status}/metrics")

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as file:
            return subprocess.Popen(
                [*self._command, *options], stdout=file, stderr=subprocess.STDOUT
            )

    def _rows(self, backend: str) -> list[dict[str, str]]:
        try:
            text = _get(f"{self._status}/;csv").removeprefix("# ")
        except OSError:
            assert self._process.poll() is None, "HAProxy must run, but has ended; see its log"
            return []
        rows = csv.DictReader(text.splitlines())
        return [row for row in rows if row["pxname"] == backend and row["svname"] != "BACKEND"]


def unprivileged(config: str) -> str:
    """The configuration without what needs root and Debian's user haproxy."""
    lines = config.splitlines(keepends=True)
    return "".join(line for line in lines if line.split()[:1] not in _PRIVILEGED)


def _get(url: str) -> str:
    with urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text
