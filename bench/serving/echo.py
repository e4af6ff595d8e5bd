"""The bare servers that the service is compared with: read a body, answer so many bytes.

    python -m bench.serving.echo fastapi|starlette|asgi ANSWER_BYTES

uvicorn with uvloop and httptools, as the service is served.
"""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn
from bench.serving.cases import OIP_PATH
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["KINDS", "main"]

OCTETS = "application/octet-stream"
PATHS = (OIP_PATH, "/v1/pose")


def fastapi(answer: bytes) -> ASGIApp:
    """A FastAPI route that takes the raw request."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def echo(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type=OCTETS)

    for path in PATHS:
        app.post(path)(echo)
    return app


def starlette(answer: bytes) -> ASGIApp:
    """A Starlette route."""

    async def echo(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type=OCTETS)

    return Starlette(routes=[Route(path, echo, methods=["POST"]) for path in PATHS])


def asgi(answer: bytes) -> ASGIApp:
    """No framework: the least that answers at all."""
    headers = [(b"content-type", OCTETS.encode()), (b"content-length", b"%d" % len(answer))]
    begin: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": headers}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        await send(begin)
        await send({"type": "http.response.body", "body": answer})

    return app


KINDS = {"fastapi": fastapi, "starlette": starlette, "asgi": asgi}


def main() -> None:
    """Serve until SIGTERM; prints the port."""
    kind, answer_bytes = sys.argv[1:]
    config = uvicorn.Config(
        KINDS[kind](bytes(int(answer_bytes))),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="error",
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
