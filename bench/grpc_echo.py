"""What an answer of 228 bytes to one of 1280 costs a server: gRPC beside HTTP, in processor time.

    service/scripts/with_pynq.sh python3 "" python -m bench.grpc_echo

In pynq's environment, whose grpcio is the one that a board has. Neither server does anything: gRPC
passes bytes through without protobuf, HTTP is an ASGI function behind uvicorn with uvloop and
httptools, as the service is. Processor time is the server process's, user and system.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvloop

REQUEST = bytes(1280)
ANSWER = bytes(228)
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SECONDS = 4.0
ROUNDS = 3
# Calls at a time, each over a connection of its own.
CALLS = (1, 32)

Loader = Callable[[int, int], Coroutine[Any, Any, int]]


def serve_http(port: int) -> None:
    import uvicorn  # noqa: PLC0415 - of the server's process alone

    head = [(b"content-type", b"application/octet-stream"), (b"content-length", b"228")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": ANSWER})

    uvicorn.run(app, port=port, loop="uvloop", http="httptools", log_level="error", lifespan="off")


def _handlers(answer: Any) -> Any:
    import grpc  # noqa: PLC0415 - of the server's process alone

    _, service, method = METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(answer)
    return grpc.method_handlers_generic_handler(service, {method: handler})


def serve_grpc_aio(port: int) -> None:
    import grpc.aio  # noqa: PLC0415 - of the server's process alone

    async def answer(request: bytes, context: Any) -> bytes:
        return ANSWER

    async def serve() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_handlers(answer),))
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()

    asyncio.run(serve())


def serve_grpc_threads(port: int) -> None:
    import grpc  # noqa: PLC0415 - of the server's process alone

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_handlers(lambda request, context: ANSWER),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def load_http(port: int, calls: int) -> int:
    """Requests answered."""
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1280\r\n\r\n"
    end_s = time.perf_counter() + SECONDS

    async def client() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 0
        while time.perf_counter() < end_s:
            writer.write(head + REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(ANSWER))
            count += 1
        writer.close()
        return count

    return sum(await asyncio.gather(*(client() for _ in range(calls))))


async def load_grpc(port: int, calls: int) -> int:
    """Requests answered."""
    import grpc.aio  # noqa: PLC0415 - a server that forks must not have it

    options = [("grpc.use_local_subchannel_pool", 1)]
    end_s = time.perf_counter() + SECONDS

    async def client() -> int:
        count = 0
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            method = channel.unary_unary(METHOD)
            while time.perf_counter() < end_s:
                answer = await method(REQUEST)
                assert len(answer) == len(ANSWER)
                count += 1
        return count

    return sum(await asyncio.gather(*(client() for _ in range(calls))))


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(serve: Callable[[int], None], load: Loader, calls: int) -> tuple[float, float]:
    """Microseconds of the server's processor time a request, and requests/s."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    assert server.pid is not None
    try:
        _wait_for(port)
        before_s = cpu_s(server.pid)
        count = (
            uvloop.run(load(port, calls)) if load is load_http else asyncio.run(load(port, calls))
        )
        return 1e6 * (cpu_s(server.pid) - before_s) / count, count / SECONDS
    finally:
        server.kill()
        server.join()


def _wait_for(port: int) -> None:
    deadline_s = time.perf_counter() + 20
    while time.perf_counter() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            time.sleep(0.5)
            return
    raise TimeoutError(f"no server on port {port}")


def main() -> None:
    kinds: dict[str, tuple[Callable[[int], None], Loader]] = {
        "HTTP, bare ASGI": (serve_http, load_http),
        "gRPC, asyncio": (serve_grpc_aio, load_grpc),
        "gRPC, threads": (serve_grpc_threads, load_grpc),
    }
    print(f"grpcio {importlib.metadata.version('grpcio')}, Python {sys.version.split()[0]}\n")
    print("| Server | Calls at a time | CPU us a request | requests/s |")
    print("|---|---|---|---|")
    for name, (serve, load) in kinds.items():
        for calls in CALLS:
            rounds = sorted(measure(serve, load, calls) for _ in range(ROUNDS))
            cpu_us, rate = rounds[ROUNDS // 2]
            print(f"| {name} | {calls} | {cpu_us:.0f} | {rate:.0f} |", flush=True)


if __name__ == "__main__":
    main()
