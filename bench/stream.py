"""One client's stream: frames a second, latency at a fixed rate, processor time of a frame.

    .venv/bin/python -m bench.stream [--json FILE]

Client and service are two processes of one machine; the client is Python's websockets. Latency
counts from the time at which a frame was to be sent, however late the client was.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from bench.serving.cases import frames
from bench.serving.machine import machine
from bench.serving.processes import Server, product, running
from websockets.asyncio.client import ClientConnection, connect

__all__ = ["main", "measure"]

_HEAD = struct.Struct("<B7xQ")
_RATE_PER_S = 1000.0


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Of each turn.")] = 20.0,
    engine: Annotated[str, typer.Option(help="native or mirror.")] = "native",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it there too.")] = None,
) -> None:
    """Measure and print."""
    text = json.dumps(measure(seconds, engine), indent=1)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n")


def measure(seconds: float, engine: str) -> dict[str, Any]:
    """The figures of both turns."""
    with running(f"service, engine {engine}", product("--engine", engine)) as server:
        asyncio.run(_closed(server, 2.0))
        return {
            "engine": engine,
            "machine": machine(),
            "as_fast_as_it_goes": asyncio.run(_closed(server, seconds)),
            "at_a_rate": asyncio.run(_paced(server, seconds, _RATE_PER_S)),
        }


def _messages() -> list[bytes]:
    return [one.astype("<f4").tobytes() for one in frames().maps]


async def _closed(server: Server, seconds: float) -> dict[str, float]:
    """Send as fast as the service reads."""
    bodies = _messages()
    before_s, begun_s = server.cpu_s(), time.perf_counter()
    async with _stream(server) as stream:
        sending = asyncio.create_task(_send_for(stream, bodies, seconds))
        answered = 0
        while not sending.done() or answered < sending.result():
            _check(await stream.recv(), answered + 1)
            answered += 1
    took_s = time.perf_counter() - begun_s
    main_s, engine_s = (
        after - before for after, before in zip(server.cpu_s(), before_s, strict=True)
    )
    return {
        "frames": answered,
        "frames_per_s": round(answered / took_s, 1),
        "main_cpu_us_a_frame": round(main_s / answered * 1e6, 1),
        "engine_cpu_us_a_frame": round(engine_s / answered * 1e6, 1),
    }


async def _paced(server: Server, seconds: float, rate_per_s: float) -> dict[str, float]:
    """Send at even times, and count latency from them."""
    bodies, count = _messages(), int(seconds * rate_per_s)
    late_s = np.zeros(count)
    latency_s = np.zeros(count)
    async with _stream(server) as stream:
        begun_s = time.perf_counter() + 0.1

        async def send() -> None:
            for index in range(count):
                due_s = begun_s + index / rate_per_s
                while (wait_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(wait_s if wait_s > 0.0005 else 0)
                late_s[index] = time.perf_counter() - due_s
                await stream.send(_HEAD.pack(1, index + 1) + bodies[index % len(bodies)])

        sending = asyncio.create_task(send())
        for index in range(count):
            _check(await stream.recv(), index + 1)
            latency_s[index] = time.perf_counter() - begun_s - index / rate_per_s
        await sending
    p50, p99, p999 = np.percentile(latency_s * 1e3, (50, 99, 99.9)).round(3).tolist()
    return {
        "frames": count,
        "frames_per_s": rate_per_s,
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_9_ms": p999,
        "max_ms": round(float(latency_s.max()) * 1e3, 3),
        "client_late_p99_ms": round(float(np.percentile(late_s, 99)) * 1e3, 3),
    }


async def _send_for(stream: ClientConnection, bodies: list[bytes], seconds: float) -> int:
    """How many frames were sent."""
    sent, end_s = 0, time.perf_counter() + seconds
    while time.perf_counter() < end_s:
        sent += 1
        await stream.send(_HEAD.pack(1, sent) + bodies[sent % len(bodies)])
    return sent


@asynccontextmanager
async def _stream(server: Server) -> AsyncIterator[ClientConnection]:
    """A connection whose hello has been read."""
    url = f"ws://127.0.0.1:{server.port}/v1/pose/stream"
    async with connect(url, compression=None, max_queue=None) as connection:
        await connection.recv()
        yield connection


def _check(message: str | bytes, sequence: int) -> None:
    assert isinstance(message, bytes)
    if len(message) != 244 or _HEAD.unpack_from(message) != (3, sequence):
        raise RuntimeError(f"frame {sequence} must have joints, but has {message[:16]!r}")


if __name__ == "__main__":
    typer.run(main)
