"""The engine process: `python -m emamba_service.lanes.child DESCRIPTOR`, started by `ProcessRoom`.

The descriptor is a SOCK_SEQPACKET socket. First comes a message of settings; each further one asks
for an engine and brings the socket to serve it on. Faults of boards go back. Its end ends the
process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from emamba.engines import Engine, EngineError
from emamba.package import PackageError, load_package
from emamba_service import logs
from emamba_service.board.engines import open_reporting
from emamba_service.lanes.room import EngineFactory
from emamba_service.lanes.serving import serve_lane
from emamba_service.settings import Settings

__all__ = ["main"]

# For the engines to close after the service has gone.
_LEAVE_LIMIT_S = 3.0
_MESSAGE_BYTES = 64 * 1024


def main() -> None:
    """Serve lanes until the control socket ends, then leave without waiting for what hangs."""
    # Whoever stops a whole group of processes leaves this one to the service, which drains first.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    settings = Settings.model_validate_json(control.recv(_MESSAGE_BYTES))
    logs.configure(settings)
    lanes = _serve(control, open_reporting(settings, partial(_report, control)))
    deadline_s = time.monotonic() + _LEAVE_LIMIT_S
    for lane in lanes:
        lane.join(max(0.0, deadline_s - time.monotonic()))
    logging.shutdown()
    # Native code that hangs in a thread must not keep the process.
    os._exit(0)


def _serve(control: socket.socket, factory: EngineFactory) -> list[threading.Thread]:
    """Start a thread for each lane asked for; those that still run at the end."""
    lanes: list[threading.Thread] = []
    while True:
        message, descriptors, _, _ = socket.recv_fds(
            control, _MESSAGE_BYTES, 1, socket.MSG_CMSG_CLOEXEC
        )
        lanes = [lane for lane in lanes if lane.is_alive()]
        if not message:
            return lanes
        sock = socket.socket(fileno=descriptors[0])
        open_engine = partial(_open, factory, orjson.loads(message))
        lane = threading.Thread(
            target=serve_lane, args=(sock, open_engine), name="emamba-lane", daemon=True
        )
        lane.start()
        lanes.append(lane)


def _open(factory: EngineFactory, ask: dict[str, Any]) -> Engine:
    try:
        package = load_package(Path(ask["folder"]))
    except PackageError as error:
        raise EngineError(str(error)) from error
    if package.sha256 != ask["sha256"]:
        raise EngineError(
            f"{ask['folder']}: SHA-256 of model.json must be {ask['sha256'][:16]}…, as the service "
            f"has loaded it, but is {package.sha256[:16]}…; load the model anew"
        )
    return factory(ask["engine"], package.model)


def _report(control: socket.socket, event: str, what: str) -> None:
    # Without a service nobody counts.
    with contextlib.suppress(OSError):
        control.send(orjson.dumps([event, what]))


if __name__ == "__main__":
    main()
