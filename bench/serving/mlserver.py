"""MLServer as a process, in each way of serving that could be its fastest."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench.serving.cases import Frames
from bench.serving.processes import ROOT, Server, ServerError, running
from bench.serving.wrk import Rate

__all__ = ["VERSION", "WAYS", "MlServer", "Way", "grpc_rate", "serving"]

VERSION = "1.7.1"
TOLERANCE_M = 1e-3
WITH = str(ROOT / "bench" / "serving" / "with_mlserver.sh")


@dataclass(frozen=True)
class Way:
    """`workers`: processes that compute, 0 for MLServer's own; adaptive batching up to `batch`."""

    workers: int
    batch: int
    batch_time_s: float = 0.0

    @property
    def name(self) -> str:
        """As tables say it."""
        batching = f"batches of {self.batch}" if self.batch else "no batching"
        waiting = f" within {1e3 * self.batch_time_s:g} ms" if self.batch else ""
        return f"{self.workers} workers, {batching}{waiting}"


# One worker and no batching are its defaults.
WAYS = (Way(0, 0), Way(0, 32, 0.001), Way(1, 0), Way(1, 32, 0.001))


@dataclass(frozen=True)
class MlServer:
    """A running MLServer."""

    way: Way
    server: Server
    grpc_port: int


@contextmanager
def serving(way: Way, model: Path, folder: Path) -> Iterator[MlServer]:
    """MLServer with `model`, ONNX, set up in `folder`, which must be empty."""
    http, grpc, metrics = _free_ports(3)
    settings: dict[str, Any] = {
        "debug": False,
        "host": "127.0.0.1",
        "parallel_workers": way.workers,
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "metrics_dir": str(folder),
    }
    of_model: dict[str, Any] = {
        "name": "mars",
        "implementation": "bench.serving.mlserver_runtime.OnnxModel",
        "parameters": {"uri": str(model)},
    }
    if way.batch:
        of_model |= {"max_batch_size": way.batch, "max_batch_time": way.batch_time_s}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(of_model))
    command = [WITH, sys.executable, "mlserver", "start", str(folder)]
    ready = "/v2/models/mars/ready"
    with running(f"MLServer, {way.name}", command, port=http, ready=ready) as server:
        yield MlServer(way, server, grpc)


def grpc_rate(
    one: MlServer, given: Frames, form: str, calls: int, channels: int, seconds: int
) -> Rate:
    """Closed loop over gRPC with `form` raw or typed; the first answer is compared.

    Raises `ServerError` where it is not what was given.
    """
    path = ROOT / "build" / "bench" / "frames.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, given.maps)
    before_s = one.server.cpu_s()
    words = [one.grpc_port, path, form, calls, channels, seconds]
    finished = subprocess.run(
        [WITH, sys.executable, "python", "-m", "bench.serving.grpc_load", *map(str, words)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    after_s = one.server.cpu_s()
    counted = json.loads(finished.stdout)
    if not np.abs(np.array(counted["joints"]) - given.joints[0]).max() <= TOLERANCE_M:
        raise ServerError(f"{one.server.name} must answer as its model does, but does not")
    requests = counted["requests"]
    cpu_us = [1e6 * (b - a) / requests for a, b in zip(before_s, after_s, strict=True)]
    rate_per_s = 1e6 * requests / counted["duration_us"]
    return Rate(rate_per_s, counted["p50_us"] / 1e3, counted["p99_us"] / 1e3, *cpu_us)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
